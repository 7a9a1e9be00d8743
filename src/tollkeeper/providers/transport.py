"""HTTP to a provider: aiohttp over kept-alive connections.

Each request is sent once: no retry, no redirect. A status other than 200 becomes a ProviderError. The begin of its body
is read for what it says is at fault; none of its text is in the error's message. A stream has no deadline but for
connecting: its reader sets the others.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from tollkeeper import errors
from tollkeeper.dialects.error_bodies import MAX_BYTES as MAX_ERROR_BYTES
from tollkeeper.dialects.error_bodies import ErrorBody, read_error, rejection

CONNECT_S = 5.0
KEEP_ALIVE_S = 30.0
MAX_ANSWER_BYTES = 16 * 1024 * 1024
ERROR_BODY_S = 2.0
"""How long an error's body is read. It may say more than the status; what it does not say in time is not needed."""
MAX_RETRY_AFTER_S = 3600
MAX_URLS = 1_000
"""How many addresses are kept parsed. Callers can invent the names of deployments in them."""


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

    async def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
        """Send a request, with these further headers, and return the answer's whole body. Raises ProviderError."""
        try:
            async with await self._post(path, body, self._post_timeout, headers) as response:
                return await _read(response)
        except NETWORK_ERRORS as error:
            raise _provider_error(error) from error

    def stream(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> "ResponseStream":
        """A request, with these further headers, whose answer is read block by block. The first read sends it."""
        return ResponseStream(lambda: self._post(path, body, self._stream_timeout, headers), body)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _post(
        self, path: str, body: bytes, timeout: aiohttp.ClientTimeout, headers: Mapping[str, str] | None
    ) -> aiohttp.ClientResponse:
        """Send a request; returns a response with status 200, its body unread. Raises ProviderError, NETWORK_ERRORS."""
        all_headers = {**headers, **self._headers} if headers else self._headers
        response = await self._client_session().post(
            self._url(path), data=body, headers=all_headers, allow_redirects=False, timeout=timeout
        )
        if response.status != 200:
            error_body = await _read_error_body(response)
            raise status_error(response.status, response.headers.get("Retry-After"), error_body, body)
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            response.close()
            raise errors.ProviderBadResponse
        return response

    def _url(self, path: str) -> URL:
        if path not in self._urls:
            if len(self._urls) >= MAX_URLS:
                self._urls.clear()
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
    """The body of one answer, block by block. The request is sent with the first read; `sent` is its body."""

    def __init__(self, send: Callable[[], Awaitable[aiohttp.ClientResponse]], sent: bytes) -> None:
        self._send = send
        self.sent = sent
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


_STATUSES_OF_REJECTIONS = frozenset({400, 403, 413, 422, 500})
"""The statuses with which servers reject a request for its content: 403 is OpenRouter's for filtered content, 500 that
of older llama.cpp servers and of proxies.
"""


def status_error(
    status: int, retry_after: str | None = None, body: bytes = b"", sent: bytes = b""
) -> errors.ProviderError:
    """The error for a status other than 200. Only another 2xx status and a timeout can have been billed.

    `retry_after` is the header of that name, `body` the begin of the response's body, `sent` the request's body.
    """
    read = read_error(body) if body else ErrorBody()
    error = _rejection(status, read, sent) or _error_by_status(status, retry_after)
    error.upstream = errors.UpstreamError(status, read.code, read.text)
    return error


def sent_error(body: bytes, sent: bytes) -> errors.ProviderError:
    """The error for an error that a provider sends with status 200. It is not billed."""
    read = read_error(body)
    error = rejection(read, sent) or errors.ProviderFailed()
    error.upstream = errors.UpstreamError(200, read.code, read.text)
    return error


def _rejection(status: int, read: ErrorBody, sent: bytes) -> errors.ProviderRejected | None:
    """The reason that the body tells, unless the status has its own meaning."""
    if status not in _STATUSES_OF_REJECTIONS:
        return None
    error = rejection(read, sent, body_too_large=status == 413)
    return error if status in {400, 413, 422} or type(error) is not errors.ProviderRejected else None


def _error_by_status(status: int, retry_after: str | None) -> errors.ProviderError:
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


async def _read_error_body(response: aiohttp.ClientResponse) -> bytes:
    """The first MAX_ERROR_BYTES of an error's body, as far as they arrive in ERROR_BODY_S.

    Closes the connection, unless the whole body was read: then it is kept alive.
    """
    body = bytearray()
    try:
        if response.headers.get("Content-Encoding", "identity").lower() == "identity":
            with suppress(*NETWORK_ERRORS):
                async with asyncio.timeout(ERROR_BODY_S):
                    while len(body) < MAX_ERROR_BYTES and (block := await response.content.readany()):
                        body += block
    finally:
        response.close()
    return bytes(body[:MAX_ERROR_BYTES])


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
