"""A caller who hears the answer of a turn on the WebSocket, and the frames in which it is said."""

import asyncio
import re
from collections.abc import Callable

import msgspec
import orjson
from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect

from tollkeeper.api.errors import problem
from tollkeeper.api.native.exchange import NativeExchange
from tollkeeper.api.native.socket_frames import Turn
from tollkeeper.api.sse_listener import RecordedResponse
from tollkeeper.errors import TollkeeperError
from tollkeeper.gateway.results import CallResult
from tollkeeper.providers.base import StreamChunk
from tollkeeper.quota.reservation import Reservation
from tollkeeper.quota.rules.keys import StoredResponse

_UP_TO_ID = re.compile(rb'(\{"type":"(?:delta|final)","id":)(?:null|"(?:[^"\\]|\\.)*")')


class TurnListener:
    """Whoever hears the answer of one turn, under its `id`."""

    def __init__(self, websocket: WebSocket, turn: Turn) -> None:
        self._websocket = websocket
        self.id = turn.id
        self._hang_up: Callable[[], None] | None = None
        self._charge_id: str | None = None
        self.left = self.cancelled = False
        self._said = RecordedResponse(keeps=turn.idempotency_key is not None)
        self.says: Callable[[StreamChunk], msgspec.Struct | None] = lambda _: None

    def attach(self, hang_up: Callable[[], None], reservation: Reservation) -> None:
        self._hang_up, self._charge_id = hang_up, reservation.charge_id
        if self.left:
            asyncio.get_running_loop().call_soon(hang_up)

    def gone(self, *, cancelled: bool = False) -> None:
        """The caller wants no more of it, or is not there any more."""
        self.left, self.cancelled = True, cancelled
        if self._hang_up is not None:
            self._hang_up()

    def over(self) -> None:
        """The turn is over: nothing can be hung up any more, and nothing of the call is held on to."""
        self._hang_up = None

    async def deliver(self, piece: StreamChunk) -> None:
        said = self.says(piece)
        if said is not None:
            frame = self._frame("delta", said)
            self._said.add(frame + b"\n")
            await self.write(frame)

    def ping(self) -> None:
        """The WebSocket has pings of its own."""

    def final(self, visit: NativeExchange, answer: CallResult) -> bytes:
        """The frame that ends the turn."""
        ending = visit.ending(answer)
        if self.cancelled and answer.outcome.cut_short:
            ending.finish_reason = "cancelled"
        return self._frame("final", ending)

    def broken(self, error: TollkeeperError) -> bytes:
        """The frame that ends a turn that failed. It names the charge, if there is one."""
        return broken(error, self.id, self._charge_id)

    def kept(self, visit: NativeExchange, answer: CallResult) -> StoredResponse | None:
        """Everything that was said, a frame a line; None, if it is too long to be kept."""
        said = self._said.whole
        return (
            StoredResponse(200, "application/x-ndjson", said + self.final(visit, answer)) if said is not None else None
        )

    async def write(self, frame: bytes) -> None:
        await send(self._websocket, frame)

    def _frame(self, kind: str, said: msgspec.Struct) -> bytes:
        opening = orjson.dumps({"type": kind, "id": self.id})
        return opening[:-1] + b"," + msgspec.json.encode(said)[1:]


def broken(error: TollkeeperError, turn_id: str | None = None, charge_id: str | None = None) -> bytes:
    """An error frame: the problem that HTTP would tell, and of its headers, after how many seconds to come again."""
    _, body, headers = problem(error)
    frame = {**body, "type": "error", "id": turn_id}
    if "Retry-After" in headers:
        frame["retry_after"] = int(headers["Retry-After"])
    if charge_id is not None:
        frame["query_id"] = charge_id
    return orjson.dumps(frame)


def under_id(turn_id: str | None, frame: bytes) -> bytes:
    """A frame of a kept answer as a turn with this id is to hear it: nothing else of it is changed."""
    opening = _UP_TO_ID.match(frame)
    return opening[1] + orjson.dumps(turn_id) + frame[opening.end() :] if opening is not None else frame


async def send(websocket: WebSocket, frame: bytes) -> None:
    """Nobody may be there any more; then there is nothing to say."""
    try:
        await websocket.send_text(frame.decode())
    except (RuntimeError, WebSocketDisconnect):
        return
