"""What every HTTP request passes: correlation id, limits on the body, security headers, access log. Pure ASGI."""

import asyncio
import random
import re
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tollkeeper.api.errors import NATIVE, Manner
from tollkeeper.errors import BodyTooLarge, ShuttingDown, TollkeeperError
from tollkeeper.telemetry.logging import AccessLog, correlation_id

LARGEST_BODY = 1024 * 1024

_WELL_FORMED_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
_WITHOUT_BODY = {"GET", "HEAD", "OPTIONS", "DELETE"}

Body = TypeVar("Body", bytes, bytearray)

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
        manner_of: Callable[[Scope], Manner] = lambda _: NATIVE,
    ) -> None:
        self._app = app
        self._access_log = access_log
        self._unread = frozenset(unread)
        self._manner_of = manner_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            with _cut_quietly() if scope["type"] == "websocket" else nullcontext():
                await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        asked = _asked_id(scope)
        current = asked if asked is not None else f"{random.getrandbits(128):032x}"
        correlation_id.set(current)
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-correlation-id", current.encode()),
                    (b"x-process-time", b"%.6f" % (time.perf_counter() - started)),
                    *_SECURITY_HEADERS,
                ]
            await send(message)

        try:
            if scope["method"] not in _WITHOUT_BODY and scope["path"] not in self._unread:
                receive = _replay(await read_body(scope, receive, LARGEST_BODY), receive)
            await self._app(scope, receive, sending)
        except TollkeeperError as error:
            if status == 0:
                await self._send_error(error, scope, sending)
        except asyncio.CancelledError:
            log.warning("http.cut")
            if status == 0:
                await self._send_error(ShuttingDown(), scope, sending)
        except Exception:
            log.exception("http.failed")
            if status == 0:
                await self._send_error(TollkeeperError(), scope, sending)
        if self._access_log.enabled:
            self._access_log.write(
                method=scope["method"],
                path=scope["path"],
                status=status,
                seconds=time.perf_counter() - started,
                correlation_id=current,
            )

    async def _send_error(self, error: TollkeeperError, scope: Scope, send: Send) -> None:
        status, body, headers = self._manner_of(scope)(error)
        await send_response(status, body, headers, send)


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


def _asked_id(scope: Scope) -> str | None:
    """The caller's correlation id, if it is well-formed."""
    for name, value in scope["headers"]:
        if name == b"x-correlation-id" and _WELL_FORMED_ID.fullmatch(value):
            return str(value.decode())
    return None


async def read_body(scope: Scope, receive: Receive, largest: int) -> bytes:
    """The whole body. Raises BodyTooLarge, as soon as that is known."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value[:20]) > largest:
            raise BodyTooLarge
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        return _bounded(body, largest)
    parts = bytearray(body)
    while message.get("more_body", False):
        _bounded(parts, largest)
        message = await receive()
        parts += message.get("body", b"")
    return bytes(_bounded(parts, largest))


def _bounded(body: Body, largest: int) -> Body:
    if len(body) > largest:
        raise BodyTooLarge
    return body


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
