"""The outermost middleware: correlation id, limits on the body, security headers, access log. Pure ASGI."""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tollkeeper.api.errors import RenderError, render_problem
from tollkeeper.api.limit_headers import LIMIT_HEADERS
from tollkeeper.api.sdk_paths import is_sdk_request
from tollkeeper.errors import (
    BodyTooLarge,
    BodyTooSlow,
    InvalidRequest,
    NotFound,
    ShuttingDown,
    TollkeeperError,
    UnsupportedMediaType,
)
from tollkeeper.telemetry.correlation import correlation_id
from tollkeeper.telemetry.logging import AccessLog
from tollkeeper.telemetry.redaction import CREDENTIAL, HIDDEN

MAX_BODY_BYTES = 1024 * 1024
BODY_TIMEOUT_S = 30.0
MAX_LOGGED_PATH = 500
"""Characters of a path in the log. A line that is longer than a pipe takes at once could tear another worker's."""

CONSOLE_ASSETS = "/console/assets/"
"""Paths whose successful responses say themselves how long they may be kept."""

_WELL_FORMED_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
]
_NO_STORE = (b"cache-control", b"no-store")

ObserveRequest = Callable[[str, int, float], None]
"""Receives method, status and seconds of a request; status 0 if no response had begun."""

log = structlog.get_logger("tollkeeper.http")


class OuterMiddleware:
    """Wraps the whole application. It reads no body: an endpoint that has one calls `read_body`, with its own limit.

    `error_renderer_of` chooses the format of an error that the application does not render itself. `observe` is called
    at the end of each request.
    """

    def __init__(
        self,
        app: ASGIApp,
        access_log: AccessLog,
        error_renderer_of: Callable[[Scope], RenderError] = lambda _: render_problem,
        observe: ObserveRequest = lambda *_: None,
    ) -> None:
        self._app = app
        self._access_log = access_log
        self._error_renderer_of = error_renderer_of
        self._observe = observe
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        self._running += 1
        self._idle.clear()
        try:
            if scope["type"] == "websocket":
                with _log_cancellation():
                    await self._app(scope, receive, send)
            else:
                await self._handle_request(scope, receive, send)
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def wait_until_idle(self, timeout_s: float) -> None:
        """Wait until no request runs, or until the timeout. Cancelled calls still settle and send an error."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()

    async def _handle_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        request_id = correlation_id_of(scope)
        if request_id is None:
            request_id = f"{random.getrandbits(128):032x}"
        correlation_id.set(request_id)
        status = 0
        own_headers = [(b"x-correlation-id", request_id.encode()), *_SECURITY_HEADERS, _NO_STORE]
        is_asset = scope["path"].startswith(CONSOLE_ASSETS)
        if is_sdk_request(scope):  # OpenAI's and Anthropic's SDKs read the correlation id there
            own_headers += [(b"x-request-id", request_id.encode()), (b"request-id", request_id.encode())]

        def send_with_headers(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if is_asset and status == 200:
                    own_headers.remove(_NO_STORE)
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-process-time", b"%.6f" % (time.perf_counter() - started)),
                    *own_headers,
                    *scope.get(LIMIT_HEADERS, ()),
                ]
            return send(message)

        try:
            _refuse_nul(scope)
            await self._app(scope, receive, send_with_headers)
        except (Exception, asyncio.CancelledError) as exception:
            error = _public_error(exception)
            if error is not None and status == 0:
                await self._send_error(error, scope, send_with_headers)
        seconds = time.perf_counter() - started
        self._observe(scope["method"], status, seconds)
        if self._access_log.enabled:
            self._access_log.write(
                method=scope["method"],
                path=CREDENTIAL.sub(HIDDEN, scope["path"])[:MAX_LOGGED_PATH],  # a client may put one there by mistake
                status=status,
                seconds=seconds,
                correlation_id=request_id,
            )

    async def _send_error(self, error: TollkeeperError, scope: Scope, send: Send) -> None:
        status, body, headers = self._error_renderer_of(scope)(error)
        await send_response(status, body, headers, send)


def _public_error(exception: BaseException) -> TollkeeperError | None:
    """The error to send to the client; None if the client has disconnected. Logs what the client must not see."""
    match exception:
        case TollkeeperError():
            return exception
        case ClientDisconnect():
            return None
        case asyncio.CancelledError():
            log.warning("http.cut")
            return ShuttingDown()
        case _:
            log.exception("http.failed")
            return TollkeeperError()


def _refuse_nul(scope: Scope) -> None:
    """Raise NotFound for a path with a NUL character, InvalidRequest for a query with one: PostgreSQL takes it in no
    statement, and no id has it.
    """
    if "\0" in scope["path"]:
        raise NotFound
    if b"%00" in scope.get("query_string", b""):
        raise InvalidRequest("The query has a NUL character. Remove it.")


async def send_response(status: int, body: bytes, headers: dict[str, str], send: Send) -> None:
    """Send a whole response."""
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    raw.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def _log_cancellation() -> Iterator[None]:
    """Log a WebSocket that the end of the grace period cancels, in place of a traceback. Its client has an error."""
    try:
        yield
    except asyncio.CancelledError:
        log.warning("websocket.cut")


def correlation_id_of(scope: Scope) -> str | None:
    """The correlation id that the client sent; None if there is none, if it is malformed or if it contains a secret."""
    for name, value in scope["headers"]:
        if name == b"x-correlation-id" and _WELL_FORMED_ID.fullmatch(value):
            sent = value.decode()
            return None if CREDENTIAL.search(sent) else sent
    return None


async def read_body(
    scope: Scope, receive: Receive, max_bytes: int, grow: Callable[[int], None] = lambda _: None
) -> bytes:
    """Read the whole body. Calls `grow` with the size of each part that is received; it may raise.

    Raises UnsupportedMediaType for a compressed body; BodyTooLarge as soon as that is known; BodyTooSlow if the body is
    not complete after BODY_TIMEOUT_S; ClientDisconnect if the client disconnects before its end.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value[:20]) > max_bytes:
            raise BodyTooLarge
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise UnsupportedMediaType("Send the body without a Content-Encoding.")
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await _read_parts(receive, max_bytes, grow)
    except TimeoutError:
        raise BodyTooSlow from None


async def _read_parts(receive: Receive, max_bytes: int, grow: Callable[[int], None]) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part: bytes = message.get("body", b"")
        if len(body) + len(part) > max_bytes:
            raise BodyTooLarge
        grow(len(part))
        more = message.get("more_body", False)
        if not body and not more:
            return part
        body += part
        if not more:
            return bytes(body)
