"""HTTP to a provider: the bytes moved by aiohttp over kept connections.

One request is sent once: no retry, no redirect. What a status means is said here, and nothing of a refusal's body is
kept. A stream has no deadline here but for connecting: whoever reads it knows what it is waiting for.
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
    """One provider's HTTP. `timeout_s` bounds a whole call that is not streamed; connecting has its own limit."""

    def __init__(self, base_url: str, headers: Mapping[str, str], *, timeout_s: float) -> None:
        self.base_url = base_url.rstrip("/")
        self._headers = {
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "tollkeeper",
            **headers,
        }
        connect_s = min(CONNECT_S, timeout_s / 2)
        self._whole = aiohttp.ClientTimeout(total=timeout_s, connect=connect_s)
        self._streamed = aiohttp.ClientTimeout(total=None, connect=connect_s)
        self._urls: dict[str, URL] = {}
        self._session: aiohttp.ClientSession | None = None

    async def post(self, path: str, body: bytes) -> bytes:
        """The whole answer. Raises ProviderError."""
        try:
            async with await self._post(path, body, self._whole) as response:
                return await _read(response)
        except NETWORK_ERRORS as error:
            raise _named(error) from error

    def stream(self, path: str, body: bytes) -> "Stream":
        """The answer as it comes."""
        return Stream(lambda: self._post(path, body, self._streamed))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _post(self, path: str, body: bytes, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        """An answer that can be read, its body yet to come. Raises ProviderError, and what aiohttp raises."""
        response = await self._open().post(
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

    def _open(self) -> aiohttp.ClientSession:
        """One session for all calls, made on the loop that uses it. As many connections as there are calls."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._session


class Stream:
    """One answer, as the network cuts it. It is asked for with the first block."""

    def __init__(self, ask: Callable[[], Awaitable[aiohttp.ClientResponse]]) -> None:
        self._ask = ask
        self._response: aiohttp.ClientResponse | None = None

    async def read(self) -> bytes:
        """The next block; nothing when there is no more. Raises ProviderError."""
        try:
            if self._response is None:
                self._response = await self._ask()
            return await self._response.content.readany()
        except NETWORK_ERRORS as error:
            raise _named(error) from error

    def close(self) -> None:
        """Hang up on the provider, if not all has come."""
        if self._response is not None:
            self._response.release() if self._response.content.at_eof() else self._response.close()


NETWORK_ERRORS = (aiohttp.ClientError, HttpProcessingError, OSError)
"""What aiohttp raises. A TimeoutError is an OSError."""


def _named(error: Exception) -> errors.ProviderError:
    """The same in our words."""
    match error:
        case aiohttp.ConnectionTimeoutError() | aiohttp.ClientConnectorError() | aiohttp.InvalidURL():
            return errors.ProviderUnavailable()
        case TimeoutError():
            return errors.ProviderTimeout()
        case aiohttp.ClientResponseError() | HttpProcessingError():
            return errors.ProviderBadResponse()
        case _:
            return errors.ProviderInterrupted()


_REFUSALS: dict[int, type[errors.ProviderError]] = {
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
"""What a status means by which a provider says that the call, as it is, is not at fault; 498 is Groq's for a lack of
capacity. After 408 it may have been billed: Azure bills what it was at work on ("Plan to manage costs for Azure
OpenAI", HTTP error response code and billing status).
"""


def status_error(status: int, retry_after: str | None = None) -> errors.ProviderError:
    """What a status other than 200 means. Only an odd success and a timeout can have been billed."""
    if 200 <= status < 300:
        return errors.ProviderBadResponse()
    if (kind := _REFUSALS.get(status)) is not None:
        return kind()
    if status == 429:
        seconds = int(retry_after) if retry_after and retry_after.isascii() and retry_after.isdigit() else None
        return errors.ProviderRateLimited(
            retry_after_s=min(seconds, MAX_RETRY_AFTER_S) if seconds is not None else None
        )
    if 400 <= status < 500:
        return errors.ProviderRejected()
    return errors.ProviderFailed()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The whole body, if it is not larger than an answer can be."""
    length = response.content_length
    if length is not None and length <= MAX_ANSWER_BYTES:
        return await response.read()
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise errors.ProviderBadResponse
    return bytes(body)
