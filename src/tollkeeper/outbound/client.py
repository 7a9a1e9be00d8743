"""An HTTP client for URLs that tenants choose. It reaches no private network, and nothing of a body is shown to them.

A name is resolved once. Every address that it has must be allowed, and the connection goes to one of these addresses:
each socket is checked again when it is made, so a name that changes its address in between (DNS rebinding) gains
nothing. Redirects are not followed. Proxies of the environment are not used, because a proxy would resolve the name.
"""

import asyncio
import re
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path

from yarl import URL

from tollkeeper.errors import ConfigurationError, OutboundFailed, OutboundRefused, Overloaded
from tollkeeper.outbound.addresses import AddressRule

MAX_BODY_BYTES = 64 * 1024
MAX_URL_LENGTH = 2_000
MAX_ADDRESSES = 20
TOTAL_S = 10.0
MAX_CONCURRENT = 50
"""Requests of this process at once. Beyond that they are refused."""
MAX_CONCURRENT_PER_TENANT = 10
"""So that slow hosts of one tenant leave room for the requests of others."""
RESOLVER_THREADS = 32
"""Threads of their own, so that slow names of tenants do not hold up the names of anything else. A look-up can last
longer than its request, so there are more threads than one tenant can keep busy.
"""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host. Raises OSError."""

_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")


@dataclass(frozen=True, slots=True)
class OutboundResponse:
    """A response. Its body is whole, has at most MAX_BODY_BYTES, and must not be shown to the tenant."""

    status: int
    body: bytes


class OutboundClient:
    """Sends requests to URLs that tenants choose: `https`, or `http` to an address of `private_networks`.

    `private_networks` are separated by commas. Certificates in `ca_file` are trusted beside the system's. `resolve`
    and `total_s` are for tests. Raises ConfigurationError for a `ca_file` without certificates.
    """

    def __init__(
        self,
        private_networks: str,
        *,
        ca_file: Path | None = None,
        resolve: Resolve | None = None,
        total_s: float = TOTAL_S,
    ) -> None:
        self._rule = AddressRule(private_networks)
        self._tls = ssl.create_default_context()
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        if ca_file is not None:
            try:
                self._tls.load_verify_locations(ca_file)
            except OSError:
                raise ConfigurationError("TOLLKEEPER_CA_FILE has no certificates, or cannot be read.") from None
        self._threads = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="outbound-resolver")
        self._resolve = resolve or self._look_up
        self._total_s = total_s
        self._running: Counter[int] = Counter()

    async def get(self, url: str, *, tenant_id: int) -> OutboundResponse:
        """A request of a tenant. Raises OutboundRefused if the URL must not be requested; OutboundFailed; Overloaded
        when too many run, of the tenant or in all.
        """
        return await self._request("GET", url, None, {}, tenant_id)

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, tenant_id: int, reads_body: bool = True
    ) -> OutboundResponse:
        """Raises as `get` does. Without `reads_body`, the response's body is not read, and is empty here."""
        return await self._request("POST", url, body, headers, tenant_id, reads_body=reads_body)

    async def check(self, url: str, *, tenant_id: int) -> None:
        """Look up the host, and send nothing. Raises as `get` does."""
        parsed = check_url(url)
        async with self._limited(tenant_id):
            await self._checked_addresses(parsed)

    def close(self) -> None:
        """Stop the threads of the resolver, without waiting for names that do not answer."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _request(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        tenant_id: int,
        *,
        reads_body: bool = True,
    ) -> OutboundResponse:
        parsed = check_url(url)
        async with self._limited(tenant_id):
            addresses = await self._checked_addresses(parsed)
            return await self._send(method, parsed, addresses, body, headers, reads_body=reads_body)

    @asynccontextmanager
    async def _limited(self, tenant_id: int) -> AsyncIterator[None]:
        """A block of a request, within the limits on their number and their time. Its errors become OutboundFailed."""
        if self._running.total() >= MAX_CONCURRENT or self._running[tenant_id] >= MAX_CONCURRENT_PER_TENANT:
            raise Overloaded
        self._running[tenant_id] += 1
        try:
            async with asyncio.timeout(self._total_s):
                yield
        except TimeoutError:
            raise OutboundFailed(f"The host did not answer within {self._total_s:g} seconds.") from None
        except (OSError, ValueError):
            raise OutboundFailed("The host has no address.") from None
        finally:
            self._running[tenant_id] -= 1
            if not self._running[tenant_id]:
                del self._running[tenant_id]

    async def _checked_addresses(self, url: URL) -> list[str]:
        """All addresses of the URL's host. Raises OutboundRefused if one of them is not allowed."""
        host, port = url.raw_host, url.port
        assert host is not None
        assert port is not None
        addresses = [host] if _is_literal(host) else list(await self._resolve(host, port))
        if not addresses or len(addresses) > MAX_ADDRESSES:
            raise OutboundFailed("The host has no address, or too many.")
        if not all(map(self._rule.allows, addresses)):
            raise OutboundRefused("The host is, or may be, in a private network. Only public addresses are allowed.")
        if url.scheme == "http" and not all(map(self._rule.is_private_but_allowed, addresses)):
            raise OutboundRefused("The URL must begin with https://.")
        return addresses

    async def _send(
        self,
        method: str,
        url: URL,
        addresses: list[str],
        body: bytes | None,
        headers: Mapping[str, str],
        *,
        reads_body: bool,
    ) -> OutboundResponse:
        module = await asyncio.to_thread(import_module, "tollkeeper.outbound.exchange")
        status, received = await module.exchange(
            method,
            url,
            body,
            headers,
            addresses=addresses,
            rule=self._rule,
            tls=self._tls,
            max_body_bytes=MAX_BODY_BYTES if reads_body else 0,
        )
        return OutboundResponse(status, received)

    async def _look_up(self, host: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


def check_url(url: str) -> URL:
    """The URL, if its form is one that may be requested. Raises OutboundRefused."""
    if len(url) > MAX_URL_LENGTH or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise OutboundRefused(f"A URL has at most {MAX_URL_LENGTH} printable ASCII characters without spaces.")
    try:
        parsed = URL(url)
        host, port = parsed.raw_host, parsed.port
    except ValueError:
        raise OutboundRefused("That is not a URL.") from None
    if parsed.scheme not in ("http", "https") or not host or not port:
        raise OutboundRefused("A URL begins with https:// and has a host.")
    if parsed.raw_user is not None or parsed.raw_password is not None or "#" in url:
        raise OutboundRefused("A URL must have neither a user nor a fragment.")
    if not _is_literal(host) and _NUMERIC_LABEL.fullmatch(host.rstrip(".").rpartition(".")[2].lower()):
        raise OutboundRefused("Write an IP address in its usual form.")  # the system would read it as one
    return parsed


def _is_literal(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
