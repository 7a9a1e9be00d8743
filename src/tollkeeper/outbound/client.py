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
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from tollkeeper.errors import ConfigurationError, OutboundFailed, OutboundRefused, Overloaded
from tollkeeper.outbound.addresses import AddressRule

MAX_BODY_BYTES = 64 * 1024
MAX_HEAD_FIELD_BYTES = 8 * 1024
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
_ERRORS = (aiohttp.ClientError, HttpProcessingError, OSError, ValueError)


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
        except _ERRORS as error:
            raise OutboundFailed(_reason(error)) from None
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
        connector = aiohttp.TCPConnector(
            resolver=_Resolved(addresses),
            use_dns_cache=False,
            force_close=True,
            ssl=self._tls,
            socket_factory=self._make_socket,
        )
        async with aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("User-Agent",),
            max_line_size=MAX_HEAD_FIELD_BYTES,
            max_field_size=MAX_HEAD_FIELD_BYTES,
        ) as session:
            sent = {"Accept": "application/json", "Accept-Encoding": "identity", **headers}
            timeout = aiohttp.ClientTimeout(total=None)  # the caller has one
            async with session.request(
                method, url, data=body, headers=sent, allow_redirects=False, timeout=timeout
            ) as response:
                return OutboundResponse(response.status, await _read(response) if reads_body else b"")

    def _make_socket(self, address: Any) -> socket.socket:
        """A socket to this address, which was checked before; checked again, in case a library resolves by itself."""
        family, kind, protocol, _, target = address
        if not self._rule.allows(target[0]):
            raise OSError("the address is not allowed")
        return socket.socket(family, kind, protocol)

    async def _look_up(self, host: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


class _Resolved(AbstractResolver):
    """A resolver for one request, which knows only the checked addresses."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        pass


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


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body. Raises OutboundFailed for one that is too large or compressed."""
    if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise OutboundFailed("The host sent a compressed response, which was not asked for.")
    body = bytearray()
    async for block in response.content.iter_any():
        body += block
        if len(body) > MAX_BODY_BYTES:
            raise OutboundFailed(f"The host sent more than {MAX_BODY_BYTES} bytes.")
    return bytes(body)


def _reason(error: Exception) -> str:
    """A sentence that tells which step failed, and nothing of what the host sent."""
    match error:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError() | ssl.SSLError():
            return "The host's certificate is not trusted, or TLS failed."
        case socket.gaierror():
            return "The host has no address."
        case aiohttp.ClientConnectorError() | ConnectionError():
            return "The host cannot be reached."
        case _:
            return "The host did not send a valid HTTP response."
