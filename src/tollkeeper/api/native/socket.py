"""WS /ai/ws: one connection, many turns; each turn has its own limit check and its own charge.

Frames are JSON objects with a `type`. From the caller: `auth` (the first, with `token`), `query` (a turn), `cancel`.
From here: `ready`, `delta`, `final`, `error`. One turn runs at a time. A handshake is answered as an HTTP request is:
with a correlation id, and with a problem where it is refused.

Every frame but `cancel` counts as a call against the caller's limit. A server that is told to stop closes with 1012: at
once where no turn runs, else after it, or after it was cut at the end of the grace period. See cli/closing.py.
"""

import asyncio
import hashlib
import time
from collections.abc import Collection
from contextlib import suppress
from typing import NoReturn
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec
import orjson
import structlog
from fastapi import APIRouter, Response, WebSocket
from starlette.websockets import WebSocketDisconnect

from tollkeeper.api.dependencies import Services
from tollkeeper.api.errors import render
from tollkeeper.api.middleware import MAX_BODY_BYTES, asked_id
from tollkeeper.api.native.exchange import NativeExchange
from tollkeeper.api.native.model_call import ask, chat_turns
from tollkeeper.api.native.socket_frames import Turn, id_of, read_cancel, read_token, read_turn
from tollkeeper.api.native.socket_listener import TurnListener, broken, send, under_id
from tollkeeper.errors import (
    Forbidden,
    InvalidJson,
    InvalidRequest,
    RateLimited,
    ShuttingDown,
    TollkeeperError,
    TurnInProgress,
    Unauthenticated,
)
from tollkeeper.gateway.results import IdempotentCall
from tollkeeper.principal import Access, Principal
from tollkeeper.quota.rules.keys import KeyedRequest
from tollkeeper.quota.rules.operations import Replayed
from tollkeeper.telemetry.logging import correlation_id

PATH = "/ai/ws"
AUTHENTICATES_WITHIN_S = 10.0
MAX_FIRST_FRAME = 32 * 1024
MAX_BAD_FRAMES = 10
NOT_AUTHENTICATED, FORBIDDEN, TOO_FAST = 4401, 4403, 4429
TOO_LARGE, NOT_TEXT, TOO_BAD, GOING_AWAY, TRY_LATER = 1009, 1003, 1008, 1012, 1013

router = APIRouter()
log = structlog.get_logger("tollkeeper.ws")


@router.websocket(PATH)
async def socket(websocket: WebSocket) -> None:
    """Turns, until one side hangs up."""
    started = time.perf_counter()
    services: Services = websocket.app.state.services
    correlation_id.set(asked_id(websocket.scope) or uuid4().hex)
    try:
        services.throttle.check_handshake(websocket.client.host if websocket.client is not None else "")
        if not _may_come_from(websocket, services.settings.origins):
            raise Forbidden("Pages of this origin may not open a connection.")
    except TollkeeperError as error:
        status, body, headers = render(error)
        await websocket.send_denial_response(Response(body, status, headers | _every_reply(started)))
        return
    own = [(name.lower().encode(), value.encode()) for name, value in _every_reply(started).items()]
    await websocket.accept(headers=own)
    connection = _Connection(websocket, services)
    websocket.state.lets_turn_end = connection.lets_turn_end
    cut = False
    try:
        await connection.serve()
    except WebSocketDisconnect:
        pass
    except asyncio.CancelledError:
        cut = True
        raise
    finally:
        await connection.stop(cut=cut)


def _every_reply(started: float) -> dict[str, str]:
    return {"X-Correlation-ID": correlation_id.get(), "X-Process-Time": f"{time.perf_counter() - started:.6f}"}


def _may_come_from(websocket: WebSocket, allowed: Collection[str]) -> bool:
    """Browsers say where a page comes from; a page from elsewhere must be on the list. Others send no Origin."""
    origin = websocket.headers.get("origin")
    if origin is None or origin in allowed:
        return True
    return urlsplit(origin).netloc == websocket.headers.get("host")


class _Connection:
    """One caller. `_turn` is the turn that runs, `_listener` hears it."""

    def __init__(self, websocket: WebSocket, services: Services) -> None:
        self._websocket = websocket
        self._services = services
        self._token = ""
        self._bad_frames = 0
        self._leaving = False
        self._turn: asyncio.Task[None] | None = None
        self._listener: TurnListener | None = None

    async def serve(self) -> None:
        """Raises WebSocketDisconnect when the caller hangs up."""
        try:
            async with asyncio.timeout(AUTHENTICATES_WITHIN_S):
                self._token = read_token(await self._receive(MAX_FIRST_FRAME))
            caller = await self._caller()
        except (Unauthenticated, InvalidJson, TimeoutError):
            await self._close(NOT_AUTHENTICATED, "unauthenticated")
            return
        except TollkeeperError as error:
            await self._say(broken(error))
            await self._close(FORBIDDEN if isinstance(error, Forbidden) else TRY_LATER, error.code)
            return
        await self._say(orjson.dumps({"type": "ready", "correlation_id": correlation_id.get()}))
        while True:
            await self._hear(await self._receive(MAX_BODY_BYTES), caller)

    def lets_turn_end(self) -> bool:
        """The server is told to stop: whether a turn runs, with whose end the connection closes."""
        self._leaving = self._running
        return self._leaving

    async def stop(self, *, cut: bool) -> None:
        """End the turn that runs, and wait until it is settled. Only who is cut hears of it: others have hung up."""
        if self._turn is None:
            return
        if cut:
            self._turn.cancel()
        elif self._listener is not None:
            self._listener.gone()
        await asyncio.gather(self._turn, return_exceptions=True)

    @property
    def _running(self) -> bool:
        return self._turn is not None and not self._turn.done()

    async def _hear(self, body: bytes, caller: Principal) -> None:
        """What one frame wants. Raises WebSocketDisconnect, when it is one too many."""
        if (cancel := read_cancel(body)) is not None:
            if self._listener is not None and cancel.id in (None, self._listener.id):
                self._listener.gone(cancelled=True)
            return
        try:
            self._services.throttle.check(caller)
        except RateLimited as error:
            await self._say(broken(error, id_of(body)))
            await self._end(TOO_FAST, "rate limited")
        try:
            turn = read_turn(body)
        except TollkeeperError as error:
            await self._say(broken(error, id_of(body)))
            self._bad_frames += 1
            if self._bad_frames == MAX_BAD_FRAMES:
                await self._end(TOO_BAD, "too many bad frames")
            return
        if self._running:
            await self._say(broken(TurnInProgress(), turn.id))
            return
        self._listener = TurnListener(self._websocket, turn)
        self._turn = asyncio.create_task(self._take(turn, self._listener))

    async def _receive(self, largest: int) -> bytes:
        """The next frame. Raises WebSocketDisconnect."""
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        text = message.get("text")
        if text is None:
            await self._end(NOT_TEXT, "frames are text")
        body: bytes = text.encode("utf-8", "surrogatepass")
        if len(body) > largest:
            await self._end(TOO_LARGE, "the frame is too large")
        return body

    async def _end(self, code: int, reason: str) -> NoReturn:
        """Raises WebSocketDisconnect."""
        await self._close(code, reason)
        raise WebSocketDisconnect(code)

    async def _close(self, code: int, reason: str) -> None:
        with suppress(RuntimeError, WebSocketDisconnect):  # they may have gone before
            await self._websocket.close(code, reason)

    async def _caller(self) -> Principal:
        """Raises Unauthenticated as soon as the token is no longer good, Forbidden, LedgerUnavailable."""
        return await self._services.credentials.verify(self._token, Access.AI)

    async def _take(self, turn: Turn, listener: TurnListener) -> None:
        """One turn, from its caller's token to its final frame."""
        caller = None
        try:
            caller = await self._caller()
            visit = await self._visit(caller, turn)
            await self._relay(caller, visit, turn, listener)
        except Unauthenticated:
            self._services.credentials.forget(caller)
            await self._close(NOT_AUTHENTICATED, "unauthenticated")
        except TollkeeperError as error:
            await listener.write(listener.broken(error))
        except asyncio.CancelledError:
            await listener.write(listener.broken(ShuttingDown()))
            raise
        except Exception:
            log.exception("ws.failed")
            await listener.write(listener.broken(TollkeeperError()))
        finally:
            listener.over()
            self._listener = None
            if self._leaving:
                await self._close(GOING_AWAY, "the server is going away")

    async def _visit(self, caller: Principal, turn: Turn) -> NativeExchange:
        if turn.prompt is not None and turn.message is not None:
            raise InvalidRequest("Either prompt or messages is needed.")
        turn.message = turn.prompt or turn.message
        asked, conversation = await ask(self._services, caller, "ws", turn, chat_turns(turn))
        return NativeExchange(asked, streaming=True, conversation=conversation)

    async def _relay(self, caller: Principal, visit: NativeExchange, turn: Turn, listener: TurnListener) -> None:
        listener.says = visit.said
        keeping = None
        if turn.idempotency_key is not None:
            asked = msgspec.json.encode(msgspec.structs.replace(turn, id=None))
            fingerprint = hashlib.sha256(PATH.encode() + b"\0" + asked).hexdigest()
            keeping = IdempotentCall(
                KeyedRequest(turn.idempotency_key, fingerprint), lambda answer: listener.kept(visit, answer)
            )
        answer = await self._services.gateway.stream(caller, visit.ask, listener, keeping)
        if isinstance(answer, Replayed):
            for frame in answer.answer.body.splitlines():
                await listener.write(under_id(turn.id, frame))
            return
        if not answer.outcome.cut_short:
            await visit.remember(answer)
        if not answer.outcome.cut_short or listener.cancelled:
            await listener.write(listener.final(visit, answer))

    async def _say(self, frame: bytes) -> None:
        await send(self._websocket, frame)
