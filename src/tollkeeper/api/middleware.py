"""What every HTTP request passes: correlation id, limits on the body, security headers, access log. Pure ASGI."""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager, suppress

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tollkeeper.api.errors import NATIVE, RenderError
from tollkeeper.errors import BodyTooLarge, BodyTooSlow, ShuttingDown, TollkeeperError
from tollkeeper.telemetry.logging import AccessLog, correlation_id

MAX_BODY_BYTES = 1024 * 1024
BODY_WITHIN_S = 30.0

FOR_SDKS = "/v1/"
"""Where the correlation id is also said as OpenAI's and Anthropic's SDKs look for it: `x-request-id`, `request-id`."""

_WELL_FORMED_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
_SECRET = re.compile(r"tk-[\w-]+|eyJ[\w.-]+")
"""An API key or a token, where somebody has put it into a path."""
_WITHOUT_BODY = {"GET", "HEAD", "OPTIONS", "DELETE"}

log = structlog.get_logger("tollkeeper.http")


class Envelope:
    """Wraps the whole application. The inner application finds the body read, and bounded.

    But on the paths of `unread`: there, who may send how much is known only later, and `read_body` is called for it.
    What nobody inside has answered is told in the manner of `manner_of`.
    """

    def __init__(
        self,
        app: ASGIApp,
        access_log: AccessLog,
        unread: Collection[str] = (),
        manner_of: Callable[[Scope], RenderError] = lambda _: NATIVE,
    ) -> None:
        self._app = app
        self._access_log = access_log
        self._unread = frozenset(unread)
        self._manner_of = manner_of
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
                with _cut_quietly():
                    await self._app(scope, receive, send)
            else:
                await self._request(scope, receive, send)
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def wait_for_calls(self, seconds: float) -> None:
        """Until all are over, but not longer. Those that were cut still settle and say so."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        asked = asked_id(scope)
        current = asked if asked is not None else f"{random.getrandbits(128):032x}"
        correlation_id.set(current)
        status = 0
        added = [(b"x-correlation-id", current.encode()), *_SECURITY_HEADERS]
        if scope["path"].startswith(FOR_SDKS):
            added += [(b"x-request-id", current.encode()), (b"request-id", current.encode())]

        def sending(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-process-time", b"%.6f" % (time.perf_counter() - started)),
                    *added,
                ]
            return send(message)

        try:
            if scope["method"] not in _WITHOUT_BODY and scope["path"] not in self._unread:
                receive = _replay(await read_body(scope, receive, MAX_BODY_BYTES), receive)
            await self._app(scope, receive, sending)
        except (Exception, asyncio.CancelledError) as error:
            told = _to_be_told(error)
            if told is not None and status == 0:
                await self._send_error(told, scope, sending)
        if self._access_log.enabled:
            self._access_log.write(
                method=scope["method"],
                path=_SECRET.sub("***", scope["path"]),
                status=status,
                seconds=time.perf_counter() - started,
                correlation_id=current,
            )

    async def _send_error(self, error: TollkeeperError, scope: Scope, send: Send) -> None:
        status, body, headers = self._manner_of(scope)(error)
        await send_response(status, body, headers, send)


def _to_be_told(error: BaseException) -> TollkeeperError | None:
    """What whoever waits for an answer hears of it; None, if nobody waits. What is not theirs to hear is logged."""
    match error:
        case TollkeeperError():
            return error
        case ClientDisconnect():
            return None
        case asyncio.CancelledError():
            log.warning("http.cut")
            return ShuttingDown()
        case _:
            log.exception("http.failed")
            return TollkeeperError()


async def send_response(status: int, body: bytes, headers: dict[str, str], send: Send) -> None:
    """Answer with ready bytes."""
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    raw.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def _cut_quietly() -> Iterator[None]:
    """A connection that the end of the grace period cuts has told its caller, and is nothing to be traced."""
    try:
        yield
    except asyncio.CancelledError:
        log.warning("websocket.cut")


def asked_id(scope: Scope) -> str | None:
    """The caller's correlation id, if it is well-formed."""
    for name, value in scope["headers"]:
        if name == b"x-correlation-id" and _WELL_FORMED_ID.fullmatch(value):
            asked = value.decode()
            return None if _SECRET.search(asked) else asked
    return None


async def read_body(
    scope: Scope, receive: Receive, largest: int, grow: Callable[[int], None] = lambda _: None
) -> bytes:
    """The whole body. `grow` is told of every part of it, and may raise.

    Raises BodyTooLarge, as soon as that is known; BodyTooSlow, when it is not all there in time; ClientDisconnect, when
    the caller hangs up before its end.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value[:20]) > largest:
            raise BodyTooLarge
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            return await _read_parts(receive, largest, grow)
    except TimeoutError:
        raise BodyTooSlow from None


async def _read_parts(receive: Receive, largest: int, grow: Callable[[int], None]) -> bytes:
    parts = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part: bytes = message.get("body", b"")
        if len(parts) + len(part) > largest:
            raise BodyTooLarge
        grow(len(part))
        more = message.get("more_body", False)
        if not parts and not more:
            return part
        parts += part
        if not more:
            return bytes(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that hands out the body that was read, then whatever comes after it."""
    pending: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def replayed() -> Message:
        nonlocal pending
        if pending is not None:
            message, pending = pending, None
            return message
        return await receive()

    return replayed
