"""Requests to a provider, and its errors as ProviderErrors.

A status other than 200 becomes a ProviderError. The begin of its body is read for what it says is at fault; none of its
text is in the error's message. A stream has no deadline but for connecting: its reader sets the others.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from tollkeeper import errors
from tollkeeper.dialects.error_bodies import MAX_BYTES as MAX_ERROR_BYTES
from tollkeeper.dialects.error_bodies import ErrorBody, read_error, rejection
from tollkeeper.providers.http.base import (
    ConnectFailed,
    DeadlineExceeded,
    HttpClient,
    HttpError,
    HttpResponse,
    MalformedResponse,
)
from tollkeeper.providers.http.choice import HttpOptions, make_client
from tollkeeper.telemetry.correlation import correlation_id
from tollkeeper.telemetry.trace_context import HEADER as TRACEPARENT
from tollkeeper.telemetry.trace_context import outgoing_traceparent

CONNECT_S = 5.0
MAX_ANSWER_BYTES = 16 * 1024 * 1024
ERROR_BODY_S = 2.0
"""How long an error's body is read. It may say more than the status; what it does not say in time is not needed."""
MAX_RETRY_AFTER_S = 3600


class Transport:
    """Sends the requests of one provider.

    `timeout_s` bounds a whole call that is not streamed. Connecting is bounded by the less of half of it and CONNECT_S.
    """

    def __init__(
        self, base_url: str, headers: Mapping[str, str], *, timeout_s: float, http: HttpOptions | None = None
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._headers = {
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "tollkeeper",
            **headers,
        }
        self._timeout_s = timeout_s
        self._http = http or HttpOptions()
        self._client: HttpClient | None = None

    async def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
        """Send a request, with these further headers, and return the answer's whole body. Raises ProviderError."""
        try:
            response = await self._post(path, body, headers, total_s=self._timeout_s, max_bytes=MAX_ANSWER_BYTES)
            try:
                return await response.whole()
            finally:
                response.close()
        except HttpError as error:
            raise _provider_error(error) from error

    def stream(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> "ResponseStream":
        """A request, with these further headers, whose answer is read block by block. The first read sends it."""
        return ResponseStream(lambda: self._post(path, body, headers), body)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def _post(
        self,
        path: str,
        body: bytes,
        headers: Mapping[str, str] | None,
        *,
        total_s: float | None = None,
        max_bytes: int | None = None,
    ) -> HttpResponse:
        """Send a request; returns a response with status 200. Raises ProviderError, HttpError."""
        if self._client is None:
            connect_s = min(CONNECT_S, self._timeout_s / 2)
            self._client = make_client(self.base_url, self._headers, connect_s=connect_s, options=self._http)
        headers = self._with_call_headers(headers)
        response = await self._client.post(path, body, headers, total_s=total_s, max_bytes=max_bytes)
        if response.status != 200:
            error_body = await _read_error_body(response)
            raise status_error(response.status, response.header("Retry-After"), error_body, body)
        if not _is_plain(response):
            response.close()
            raise errors.ProviderBadResponse
        return response

    def _with_call_headers(self, headers: Mapping[str, str] | None) -> dict[str, str]:
        """These headers, and those that tell the provider which call and which trace the request belongs to."""
        sent = dict(headers) if headers else {}
        if traceparent := outgoing_traceparent.get():
            sent[TRACEPARENT] = traceparent
        if (name := self._http.correlation_header) is not None and (value := correlation_id.get()):
            sent[name] = value
        return sent


class ResponseStream:
    """The body of one answer, block by block. The request is sent with the first read; `sent` is its body."""

    def __init__(self, send: Callable[[], Awaitable[HttpResponse]], sent: bytes) -> None:
        self._send = send
        self.sent = sent
        self._response: HttpResponse | None = None

    async def read(self) -> bytes:
        """The next block; empty at the end. Raises ProviderError."""
        try:
            if self._response is None:
                self._response = await self._send()
            return await self._response.read()
        except HttpError as error:
            raise _provider_error(error) from error

    def close(self) -> None:
        """Close the connection, unless the whole body was received: then it is kept alive."""
        if self._response is not None:
            self._response.close()


def _provider_error(error: HttpError) -> errors.ProviderError:
    match error:
        case ConnectFailed():
            return errors.ProviderUnavailable()
        case DeadlineExceeded():
            return errors.ProviderTimeout()
        case MalformedResponse():
            return errors.ProviderBadResponse()
        case _:
            return errors.ProviderInterrupted()


def _is_plain(response: HttpResponse) -> bool:
    """Whether the body is not compressed."""
    return (response.header("Content-Encoding") or "identity").lower() == "identity"


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


async def _read_error_body(response: HttpResponse) -> bytes:
    """The first MAX_ERROR_BYTES of an error's body, as far as they arrive in ERROR_BODY_S.

    Closes the connection, unless the whole body was read: then it is kept alive.
    """
    body = bytearray()
    try:
        if _is_plain(response):
            with suppress(HttpError, TimeoutError):
                async with asyncio.timeout(ERROR_BODY_S):
                    while len(body) < MAX_ERROR_BYTES and (block := await response.read()):
                        body += block
    finally:
        response.close()
    return bytes(body[:MAX_ERROR_BYTES])
