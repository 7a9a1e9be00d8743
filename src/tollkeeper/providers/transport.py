"""HTTP to a provider: the bytes moved by aiohttp over kept connections.

One request is sent once: no retry, no redirect. What a status means is said here, and nothing of a refusal's body is
kept. A stream has no deadline here but for connecting: whoever reads it knows what it is waiting for.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import aiohttp
from yarl import URL

from tollkeeper import errors
from tollkeeper.dialects.sse import Event, Splitter, TooLarge

CONNECT_S = 5.0
KEEP_ALIVE_S = 30.0
MOST_ANSWER_BYTES = 16 * 1024 * 1024
MOST_LINE_BYTES = 4 * 1024 * 1024
LONGEST_RETRY_AFTER_S = 3600


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
        with _named_errors():
            async with self._open().post(
                self._url(path), data=body, headers=self._headers, allow_redirects=False, timeout=self._whole
            ) as response:
                if response.status != 200:
                    raise _refusal(response)
                return await _read(response)

    async def events(self, path: str, body: bytes) -> AsyncGenerator[list[Event]]:
        """The answer as server-sent events, as many at a time as came together. Raises ProviderError."""
        splitter = Splitter()
        async with self._streaming(path, body) as response:
            while block := await response.content.readany():
                try:
                    events = splitter.feed(block)
                except TooLarge:
                    raise errors.ProviderBadResponse from None
                if events:
                    yield events
        if splitter.unfinished:
            raise errors.ProviderInterrupted

    async def lines(self, path: str, body: bytes) -> AsyncGenerator[list[bytes]]:
        """The answer as lines, as many at a time as came together. Raises ProviderError."""
        rest = b""
        async with self._streaming(path, body) as response:
            while block := await response.content.readany():
                *lines, rest = (rest + block).split(b"\n")
                if len(rest) > MOST_LINE_BYTES:
                    raise errors.ProviderBadResponse
                if lines := [line for line in lines if line.strip()]:
                    yield lines
        if rest.strip():
            yield [rest]

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def _streaming(self, path: str, body: bytes) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response whose body is yet to come; left early, the provider is hung up on."""
        with _named_errors():
            response = await self._open().post(
                self._url(path), data=body, headers=self._headers, allow_redirects=False, timeout=self._streamed
            )
            try:
                if response.status != 200:
                    raise _refusal(response)
                _refuse_encoded(response)
                yield response
            finally:
                response.close() if not response.content.at_eof() else response.release()

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


@contextmanager
def _named_errors() -> Iterator[None]:
    """What aiohttp raises, in our words."""
    try:
        yield
    except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError, aiohttp.InvalidURL) as error:
        raise errors.ProviderUnavailable from error
    except TimeoutError as error:
        raise errors.ProviderTimeout from error
    except aiohttp.ClientResponseError as error:
        raise errors.ProviderBadResponse from error
    except (aiohttp.ClientError, OSError) as error:
        raise errors.ProviderInterrupted from error


def status_error(status: int, retry_after: str | None = None) -> errors.ProviderError:
    """What a status other than 200 means. Only an odd success can have been billed."""
    if 200 <= status < 300:
        return errors.ProviderBadResponse()
    if status in {401, 403}:
        return errors.ProviderAuthFailed()
    if status == 429:
        seconds = int(retry_after) if retry_after and retry_after.isascii() and retry_after.isdigit() else None
        return errors.ProviderRateLimited(
            retry_after_s=min(seconds, LONGEST_RETRY_AFTER_S) if seconds is not None else None
        )
    if 400 <= status < 500:
        return errors.ProviderRejected()
    return errors.ProviderFailed()


def _refusal(response: aiohttp.ClientResponse) -> errors.ProviderError:
    response.close()
    return status_error(response.status, response.headers.get("Retry-After"))


def _refuse_encoded(response: aiohttp.ClientResponse) -> None:
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise errors.ProviderBadResponse


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The whole body, if it is one we can read: not encoded, not larger than an answer can be."""
    _refuse_encoded(response)
    length = response.content_length
    if length is not None and length <= MOST_ANSWER_BYTES:
        return await response.read()
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MOST_ANSWER_BYTES:
            raise errors.ProviderBadResponse
    return bytes(body)
