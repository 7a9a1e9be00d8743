"""What every HTTP request passes: correlation id, limits on the body, security headers, access log. Pure ASGI."""

import asyncio
import random
import re
import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tollkeeper.api.errors import render
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

log = structlog.get_logger("tollkeeper.http")


class Envelope:
    """Wraps the whole application. The inner application finds the body read, and bounded."""

    def __init__(self, app: ASGIApp, access_log: AccessLog) -> None:
        self._app = app
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        asked, length = _read_headers(scope)
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
            if scope["method"] not in _WITHOUT_BODY:
                receive = _replay(await _read_body(receive, length), receive)
            await self._app(scope, receive, sending)
        except TollkeeperError as error:
            if status == 0:
                await send_error(error, sending)
        except asyncio.CancelledError:
            log.warning("http.cut")
            if status == 0:
                await send_error(ShuttingDown(), sending)
        except Exception:
            log.exception("http.failed")
            if status == 0:
                await send_error(TollkeeperError(), sending)
        if self._access_log.enabled:
            self._access_log.write(
                method=scope["method"],
                path=scope["path"],
                status=status,
                seconds=time.perf_counter() - started,
                correlation_id=current,
            )


async def send_error(error: TollkeeperError, send: Send) -> None:
    """Answer with a problem."""
    status, body, headers = render(error)
    await send_response(status, body, headers, send)


async def send_response(status: int, body: bytes, headers: dict[str, str], send: Send) -> None:
    """Answer with ready bytes."""
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    raw.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _read_headers(scope: Scope) -> tuple[str | None, int]:
    """The caller's correlation id, if it is well-formed, and the declared length of the body."""
    asked, length = None, 0
    for name, value in scope["headers"]:
        if name == b"x-correlation-id" and _WELL_FORMED_ID.fullmatch(value):
            asked = value.decode()
        elif name == b"content-length" and value.isdigit():
            length = int(value[:20])
    return asked, length


async def _read_body(receive: Receive, declared: int) -> bytes:
    """The whole body. Raises BodyTooLarge, as soon as that is known."""
    if declared > LARGEST_BODY:
        raise BodyTooLarge
    body = bytearray()
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > LARGEST_BODY:
            raise BodyTooLarge
        more = message.get("more_body", False)
    return bytes(body)


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
