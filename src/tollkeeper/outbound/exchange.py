"""One request of the outbound client, by aiohttp. It is loaded with the first request: it takes 9 MB."""

import socket
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from tollkeeper.errors import OutboundFailed
from tollkeeper.outbound.addresses import AddressRule

MAX_HEAD_FIELD_BYTES = 8 * 1024
_NO_RESPONSE = "The host did not send a valid HTTP response."


async def exchange(
    method: str,
    url: URL,
    body: bytes | None,
    headers: Mapping[str, str],
    *,
    addresses: Sequence[str],
    rule: AddressRule,
    tls: ssl.SSLContext,
    max_body_bytes: int,
) -> tuple[int, bytes]:
    """Send a request to one of these addresses of the host. Returns the status and the body of the response; with
    `max_body_bytes` 0, the body is not read.

    Raises OutboundFailed, also for a larger body or a compressed one.
    """
    connector = aiohttp.TCPConnector(
        resolver=_Resolved(addresses),
        use_dns_cache=False,
        force_close=True,
        ssl=tls,
        socket_factory=lambda address: _make_socket(rule, address),
    )
    try:
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
                return response.status, await _read(response, max_body_bytes) if max_body_bytes else b""
    except TimeoutError:
        raise
    except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as error:
        raise OutboundFailed(_reason(error)) from None


def _make_socket(rule: AddressRule, address: Any) -> socket.socket:
    """A socket to this address, which was checked before; checked again, in case a library resolves by itself."""
    family, kind, protocol, _, target = address
    if not rule.allows(target[0]):
        raise OSError("the address is not allowed")
    return socket.socket(family, kind, protocol)


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


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """The body. Raises OutboundFailed for one that is too large or compressed."""
    if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise OutboundFailed("The host sent a compressed response, which was not asked for.")
    body = bytearray()
    async for block in response.content.iter_any():
        body += block
        if len(body) > max_bytes:
            raise OutboundFailed(f"The host sent more than {max_bytes} bytes.")
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
            return _NO_RESPONSE
