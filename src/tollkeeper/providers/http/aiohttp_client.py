"""aiohttp as the client: where requests go through a proxy, and where the operator chooses it."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from tollkeeper.providers.http.base import (
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    HttpError,
    MalformedResponse,
)
from tollkeeper.providers.http.connector import tls_context

KEEP_ALIVE_S = 30.0
_ERRORS = (aiohttp.ClientError, HttpProcessingError, OSError)
"""The exceptions of aiohttp. A TimeoutError is an OSError."""


class AiohttpClient:
    """As PooledClient, and through the `proxy` with this URL, if there is one."""

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        *,
        connect_s: float,
        ca_file: Path | None = None,
        proxy: str | None = None,
    ) -> None:
        self._proxy = proxy
        self._base_url = base_url
        self._headers = dict(headers)
        self._connect_s = connect_s
        self._ca_file = ca_file
        self._session: aiohttp.ClientSession | None = None

    async def post(
        self,
        path: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        total_s: float | None = None,
        max_bytes: int | None = None,
    ) -> "AiohttpResponse":
        sent: list[None] = []
        try:
            response = await self._client_session().post(
                URL(self._base_url + path),
                data=body,
                headers={**headers, **self._headers} if headers else self._headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=total_s, connect=self._connect_s),
                proxy=self._proxy,
                trace_request_ctx=sent,
            )
        except ValueError as error:  # a URL or a header that cannot be sent
            raise ConnectFailed(type(error).__name__) from None
        except _ERRORS as error:
            if not sent and not isinstance(error, TimeoutError):
                raise ConnectFailed(type(error).__name__) from None  # its text may have the proxy's password
            raise _http_error(error) from error
        return AiohttpResponse(response, max_bytes)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _client_session(self) -> aiohttp.ClientSession:
        """One session for all calls, made on the loop that uses it. The number of connections is not limited."""
        if self._session is None:
            traced = aiohttp.TraceConfig()
            traced.on_request_headers_sent.append(_note_sent)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S, ssl=tls_context(self._ca_file)),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trace_configs=[traced],
            )
        return self._session


class AiohttpResponse:
    """One response of aiohttp."""

    def __init__(self, response: aiohttp.ClientResponse, max_bytes: int | None) -> None:
        self._response = response
        self._max_bytes = max_bytes

    @property
    def status(self) -> int:
        return self._response.status

    def header(self, name: str) -> str | None:
        return self._response.headers.get(name)

    async def whole(self) -> bytes:
        body = bytearray()
        while block := await self.read():
            body += block
            if self._max_bytes is not None and len(body) > self._max_bytes:
                raise MalformedResponse("the body is too large")
        return bytes(body)

    async def read(self) -> bytes:
        try:
            return await self._response.content.readany()
        except _ERRORS as error:
            raise _http_error(error) from error

    def close(self) -> None:
        self._response.release() if self._response.content.at_eof() else self._response.close()


async def _note_sent(_session: object, context: Any, _parameters: object) -> None:
    """Note that the request was sent: what fails before has reached a proxy at the most."""
    context.trace_request_ctx.append(None)


def _http_error(error: Exception) -> HttpError:
    """The HttpError for one of _ERRORS."""
    match error:
        case aiohttp.ConnectionTimeoutError() | aiohttp.ClientConnectorError() | aiohttp.InvalidURL():
            return ConnectFailed()
        case TimeoutError() | asyncio.TimeoutError():
            return DeadlineExceeded()
        case aiohttp.ClientResponseError() | HttpProcessingError():
            return MalformedResponse()
        case _:
            return ConnectionLost()
