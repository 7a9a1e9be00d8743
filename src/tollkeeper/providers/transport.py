"""HTTP to a provider: aiohttp over kept-alive connections.

Each request is sent once: no retry, no redirect. A status other than 200 becomes a ProviderError; its body is never
read. A stream has no deadline but for connecting: its reader sets the others.
"""

from collections.abc import Awaitable, Callable, Mapping

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from tollkeeper import errors

CONNECT_S = 5.0
KEEP_ALIVE_S = 30.0
MAX_ANSWER_BYTES = 16 * 1024 * 1024
MAX_RETRY_AFTER_S = 3600


class Transport:
    """The HTTP client of one provider.

    `timeout_s` bounds a whole call that is not streamed. Connecting is bounded by the less of half of it and CONNECT_S.
    """

    def __init__(self, base_url: str, headers: Mapping[str, str], *, timeout_s: float) -> None:
        self.base_url = base_url.rstrip("/")
        self._headers = {
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "tollkeeper",
            **headers,
        }
        connect_s = min(CONNECT_S, timeout_s / 2)
        self._post_timeout = aiohttp.ClientTimeout(total=timeout_s, connect=connect_s)
        self._stream_timeout = aiohttp.ClientTimeout(total=None, connect=connect_s)
        self._urls: dict[str, URL] = {}
        self._session: aiohttp.ClientSession | None = None

    async def post(self, path: str, body: bytes) -> bytes:
        """Send a request and return the whole body of the answer. Raises ProviderError."""
        try:
            async with await self._post(path, body, self._post_timeout) as response:
                return await _read(response)
        except NETWORK_ERRORS as error:
            raise _provider_error(error) from error

    def stream(self, path: str, body: bytes) -> "ResponseStream":
        """A request whose answer is read block by block. It is sent with the first read."""
        return ResponseStream(lambda: self._post(path, body, self._stream_timeout))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _post(self, path: str, body: bytes, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        """Send a request; returns a response with status 200, its body unread. Raises ProviderError, NETWORK_ERRORS."""
        response = await self._client_session().post(
            self._url(path), data=body, headers=self._headers, allow_redirects=False, timeout=timeout
        )
        if response.status != 200:
            response.close()
            raise status_error(response.status, response.headers.get("Retry-After"))
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            response.close()
            raise errors.ProviderBadResponse
        return response

    def _url(self, path: str) -> URL:
        if path not in self._urls:
            self._urls[path] = URL(self.base_url + path)
        return self._urls[path]

    def _client_session(self) -> aiohttp.ClientSession:
        """One session for all calls, made on the loop that uses it. The number of connections is not limited."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._session


class ResponseStream:
    """The body of one answer, block by block. The request is sent with the first read."""

    def __init__(self, send: Callable[[], Awaitable[aiohttp.ClientResponse]]) -> None:
        self._send = send
        self._response: aiohttp.ClientResponse | None = None

    async def read(self) -> bytes:
        """The next block; empty at the end. Raises ProviderError."""
        try:
            if self._response is None:
                self._response = await self._send()
            return await self._response.content.readany()
        except NETWORK_ERRORS as error:
            raise _provider_error(error) from error

    def close(self) -> None:
        """Close the connection, unless the whole body was read: then it is kept alive."""
        if self._response is not None:
            self._response.release() if self._response.content.at_eof() else self._response.close()


NETWORK_ERRORS = (aiohttp.ClientError, HttpProcessingError, OSError)
"""The exceptions of aiohttp. A TimeoutError is an OSError."""


def _provider_error(error: Exception) -> errors.ProviderError:
    """The ProviderError for one of NETWORK_ERRORS."""
    match error:
        case aiohttp.ConnectionTimeoutError() | aiohttp.ClientConnectorError() | aiohttp.InvalidURL():
            return errors.ProviderUnavailable()
        case TimeoutError():
            return errors.ProviderTimeout()
        case aiohttp.ClientResponseError() | HttpProcessingError():
            return errors.ProviderBadResponse()
        case _:
            return errors.ProviderInterrupted()


_ERROR_BY_STATUS: dict[int, type[errors.ProviderError]] = {
    401: errors.ProviderAuthFailed,
    402: errors.ProviderAuthFailed,
    403: errors.ProviderAuthFailed,
    404: errors.ProviderLacksModel,
    405: errors.ProviderLacksModel,
    408: errors.ProviderTimeout,
    409: errors.ProviderFailed,
    410: errors.ProviderLacksModel,
    425: errors.ProviderFailed,
    498: errors.ProviderFailed,
}
"""The statuses for which the content of the call is not the cause. 498 is Groq's status for a lack of capacity. A call
with status 408 may have been billed: Azure bills the work that it has begun ("Plan to manage costs for Azure OpenAI",
HTTP error response code and billing status).
"""


def status_error(status: int, retry_after: str | None = None) -> errors.ProviderError:
    """The error for a status other than 200. Only another 2xx status and a timeout can have been billed.

    `retry_after` is the header of that name.
    """
    if 200 <= status < 300:
        return errors.ProviderBadResponse()
    if (error := _ERROR_BY_STATUS.get(status)) is not None:
        return error()
    if status == 429:
        seconds = int(retry_after) if retry_after and retry_after.isascii() and retry_after.isdigit() else None
        return errors.ProviderRateLimited(
            retry_after_s=min(seconds, MAX_RETRY_AFTER_S) if seconds is not None else None
        )
    if 400 <= status < 500:
        return errors.ProviderRejected()
    return errors.ProviderFailed()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The whole body. Raises ProviderBadResponse if it is larger than MAX_ANSWER_BYTES."""
    length = response.content_length
    if length is not None and length <= MAX_ANSWER_BYTES:
        return await response.read()
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise errors.ProviderBadResponse
    return bytes(body)
