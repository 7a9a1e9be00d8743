"""WS /ai/ws: one connection, many turns; each turn has its own limit check and its own charge.

Frames are JSON objects with a `type`. From the caller: `auth` (the first, with `token`), `query` (a turn), `cancel`.
From here: `ready`, `delta`, `final`, `error`. One turn runs at a time.
"""

import asyncio
import hashlib
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec
import orjson
import structlog
from fastapi import APIRouter, WebSocket
from msgspec import Meta
from starlette.websockets import WebSocketDisconnect

from tollkeeper.api import strict_json
from tollkeeper.api.ai.answers import NativeVisit
from tollkeeper.api.ai.native import ask, chat_turns
from tollkeeper.api.ai.schemas import ChatAsked
from tollkeeper.api.dependencies import Services
from tollkeeper.api.errors import problem
from tollkeeper.api.middleware import LARGEST_BODY
from tollkeeper.errors import (
    InvalidJson,
    InvalidRequest,
    RateLimited,
    ShuttingDown,
    TollkeeperError,
    TurnInProgress,
    Unauthenticated,
)
from tollkeeper.gateway import Answer, Keeping
from tollkeeper.principal import Principal
from tollkeeper.providers.base import Piece
from tollkeeper.quota.keys import Attempt, KeptAnswer
from tollkeeper.quota.operations import Replayed
from tollkeeper.quota.reservation import Reservation
from tollkeeper.telemetry.logging import correlation_id

PATH = "/ai/ws"
AUTHENTICATES_WITHIN_S = 10.0
NOT_AUTHENTICATED, TOO_FAST, TOO_LARGE, NOT_TEXT = 4401, 4429, 1009, 1003

router = APIRouter()
log = structlog.get_logger("tollkeeper.ws")


class Auth(msgspec.Struct, tag="auth", forbid_unknown_fields=True):
    """The first frame: who is calling."""

    token: Annotated[str, Meta(max_length=20_000)]


class Turn(ChatAsked, tag="query", kw_only=True, forbid_unknown_fields=True):
    """One question: a `prompt`, or messages as on /ai/chat. `id` comes back with every frame of the answer."""

    id: Annotated[str, Meta(max_length=100)] | None = None
    prompt: Annotated[str, Meta(min_length=1)] | None = None
    idempotency_key: Annotated[str, Meta(pattern=r"^[\x21-\x7e]{1,255}\Z")] | None = None


class Cancel(msgspec.Struct, tag="cancel", forbid_unknown_fields=True):
    """Stop the turn that runs. What was said of it until then is paid."""


_decode = msgspec.json.Decoder(Auth | Turn | Cancel).decode


@router.websocket(PATH)
async def socket(websocket: WebSocket) -> None:
    """Turns, until one side hangs up."""
    services: Services = websocket.app.state.services
    if not _may_come_from(websocket, services.settings.allowed_origins.split(",")):
        await websocket.close()
        return
    correlation_id.set(uuid4().hex)
    await websocket.accept(headers=[(b"x-correlation-id", correlation_id.get().encode())])
    connection = _Connection(websocket, services)
    try:
        await connection.serve()
    except WebSocketDisconnect:
        pass
    finally:
        await connection.stop()


def _may_come_from(websocket: WebSocket, allowed: list[str]) -> bool:
    """Browsers say where a page comes from; a page from elsewhere must be on the list. Others send no Origin."""
    origin = websocket.headers.get("origin")
    if origin is None or origin in [one.strip() for one in allowed]:
        return True
    return urlsplit(origin).netloc == websocket.headers.get("host")


class _Connection:
    """One caller. `_turn` is the turn that runs, `_hang_up` cuts it."""

    def __init__(self, websocket: WebSocket, services: Services) -> None:
        self._websocket = websocket
        self._services = services
        self._token = ""
        self._turn: asyncio.Task[None] | None = None
        self._listener: _Listener | None = None

    async def serve(self) -> None:
        """Raises WebSocketDisconnect when the caller hangs up."""
        try:
            async with asyncio.timeout(AUTHENTICATES_WITHIN_S):
                first = await self._receive()
            if not isinstance(first, Auth):
                raise Unauthenticated
            self._token = first.token
            self._caller()
        except (Unauthenticated, InvalidJson, InvalidRequest, TimeoutError):
            await self._websocket.close(NOT_AUTHENTICATED, "unauthenticated")
            return
        await self._send({"type": "ready", "correlation_id": correlation_id.get()})
        while True:
            await self._next()

    async def stop(self) -> None:
        """Cut the turn that runs, and wait until it is settled."""
        if self._listener is not None:
            self._listener.gone()
        if self._turn is not None:
            await asyncio.gather(self._turn, return_exceptions=True)

    async def _next(self) -> None:
        try:
            frame = await self._receive()
        except TollkeeperError as error:
            await self._say(error, None)
            return
        match frame:
            case Turn() if self._turn is None or self._turn.done():
                self._listener = _Listener(self._websocket, frame.id)
                self._turn = asyncio.create_task(self._take(frame, self._listener))
            case Turn():
                await self._say(TurnInProgress(), frame.id)
            case Cancel() if self._listener is not None:
                self._listener.gone(cancelled=True)
            case Auth():
                await self._say(InvalidRequest("This connection is authenticated already."), None)

    async def _receive(self) -> Any:
        """The next frame. Raises InvalidJson, InvalidRequest, WebSocketDisconnect."""
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        text = message.get("text")
        if text is None:
            await self._websocket.close(NOT_TEXT, "frames are text")
            raise WebSocketDisconnect(NOT_TEXT)
        body = text.encode("utf-8", "surrogatepass")
        if len(body) > LARGEST_BODY:
            await self._websocket.close(TOO_LARGE, "the frame is too large")
            raise WebSocketDisconnect(TOO_LARGE)
        strict_json.check(body)
        try:
            return _decode(body)
        except msgspec.ValidationError:
            raise InvalidRequest("A frame must be auth, query or cancel, with the fields of it.") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise InvalidJson from None

    def _caller(self) -> Principal:
        """Raises Unauthenticated as soon as the token is no longer good."""
        return self._services.tokens.verify(self._token)

    async def _take(self, turn: Turn, listener: "_Listener") -> None:
        """One turn, from its limit check to its final frame."""
        try:
            caller = self._caller()
            self._services.throttle.check(caller)
            visit = await self._visit(caller, turn)
            await self._relay(caller, visit, turn, listener)
        except Unauthenticated:
            await self._websocket.close(NOT_AUTHENTICATED, "unauthenticated")
        except RateLimited as error:
            await self._say(error, turn.id)
            await self._websocket.close(TOO_FAST, "rate limited")
        except TollkeeperError as error:
            await self._say(error, turn.id)
        except asyncio.CancelledError:
            await self._say(ShuttingDown(), turn.id)
            raise
        except Exception:
            log.exception("ws.failed")
            await self._say(TollkeeperError(), turn.id)

    async def _visit(self, caller: Principal, turn: Turn) -> NativeVisit:
        if turn.prompt is not None and turn.message is not None:
            raise InvalidRequest("Either prompt or messages is needed.")
        turn.message = turn.prompt or turn.message
        asked, conversation = await ask(self._services, caller, "ws", turn, chat_turns(turn))
        return NativeVisit(asked, streaming=True, conversation=conversation)

    async def _relay(self, caller: Principal, visit: NativeVisit, turn: Turn, listener: "_Listener") -> None:
        listener.says = visit.said
        keeping = None
        if turn.idempotency_key is not None:
            asked = msgspec.json.encode(msgspec.structs.replace(turn, id=None))
            fingerprint = hashlib.sha256(PATH.encode() + b"\0" + asked).hexdigest()
            keeping = Keeping(Attempt(turn.idempotency_key, fingerprint), lambda answer: listener.kept(visit, answer))
        answer = await self._services.gateway.stream(caller, visit.ask, listener, keeping)
        if isinstance(answer, Replayed):
            for frame in answer.answer.body.splitlines():
                await self._websocket.send_text(frame.decode())
            return
        if not answer.cut_short:
            await visit.remember(answer)
        if not answer.cut_short or listener.cancelled:
            await listener.write(listener.final(visit, answer))

    async def _say(self, error: TollkeeperError, turn_id: str | None) -> None:
        _, body, _ = problem(error)
        await self._send({**body, "type": "error", "id": turn_id})

    async def _send(self, frame: dict[str, Any]) -> None:
        await _send(self._websocket, orjson.dumps(frame))


class _Listener:
    """Whoever hears the answer of one turn."""

    def __init__(self, websocket: WebSocket, turn_id: str | None) -> None:
        self._websocket = websocket
        self._id = turn_id
        self._hang_up: Callable[[], None] | None = None
        self.left = self.cancelled = False
        self._said: list[bytes] = []
        self.says: Callable[[Piece], msgspec.Struct | None] = lambda _: None

    def attach(self, hang_up: Callable[[], None], reservation: Reservation) -> None:
        self._hang_up = hang_up
        if self.left:
            asyncio.get_running_loop().call_soon(hang_up)

    def gone(self, *, cancelled: bool = False) -> None:
        """The caller wants no more of it, or is not there any more."""
        self.left, self.cancelled = True, cancelled
        if self._hang_up is not None:
            self._hang_up()

    async def deliver(self, piece: Piece) -> None:
        said = self.says(piece)
        if said is not None:
            self._said.append(self._frame("delta", said))
            await self.write(self._said[-1])

    def ping(self) -> None:
        """The WebSocket has pings of its own."""

    def final(self, visit: NativeVisit, answer: Answer) -> bytes:
        """The frame that ends the turn."""
        ending = visit.ending(answer)
        if self.cancelled and answer.cut_short:
            ending.finish_reason = "cancelled"
        return self._frame("final", ending)

    def kept(self, visit: NativeVisit, answer: Answer) -> KeptAnswer:
        """Everything that was said, a frame a line."""
        return KeptAnswer(200, "application/x-ndjson", b"\n".join([*self._said, self.final(visit, answer)]))

    async def write(self, frame: bytes) -> None:
        await _send(self._websocket, frame)

    def _frame(self, kind: str, said: msgspec.Struct) -> bytes:
        opening = orjson.dumps({"type": kind, "id": self._id})
        return opening[:-1] + b"," + msgspec.json.encode(said)[1:]


async def _send(websocket: WebSocket, frame: bytes) -> None:
    """Nobody may be there any more; then there is nothing to say."""
    try:
        await websocket.send_text(frame.decode())
    except (RuntimeError, WebSocketDisconnect):
        return
