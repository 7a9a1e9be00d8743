"""Delivers the answer of one turn on the WebSocket, as frames."""

import asyncio
import re
from collections.abc import Callable

import msgspec
import orjson
from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect

from tollkeeper.api.errors import problem_details
from tollkeeper.api.native.exchange import NativeExchange
from tollkeeper.api.native.schemas import DeltaEvent
from tollkeeper.api.native.socket_frames import TurnFrame
from tollkeeper.api.sse_listener import RecordedResponse
from tollkeeper.errors import TollkeeperError
from tollkeeper.gateway.cache_status import CacheStatus
from tollkeeper.gateway.results import CallResult
from tollkeeper.providers.base import StreamChunk
from tollkeeper.quota.reservation import Reservation
from tollkeeper.quota.rules.idempotency_keys import StoredResponse

_UP_TO_ID = re.compile(rb'(\{"type":"(?:delta|final)","id":)(?:null|"(?:[^"\\]|\\.)*")')


class TurnListener:
    """The listener of one turn. Each of its frames has the turn's `id`. `make_event` is set before the call begins."""

    def __init__(self, websocket: WebSocket, turn: TurnFrame) -> None:
        self._websocket = websocket
        self.id = turn.id
        self._on_disconnect: Callable[[], None] | None = None
        self._charge_id: str | None = None
        self.left = self.cancelled = False
        self.cache_status: CacheStatus | None = None
        self._recorded = RecordedResponse(enabled=turn.idempotency_key is not None)
        self.make_event: Callable[[StreamChunk], DeltaEvent | None] = lambda _: None

    def attach(self, on_disconnect: Callable[[], None], reservation: Reservation) -> None:
        self._on_disconnect, self._charge_id = on_disconnect, reservation.charge_id
        if self.left:
            asyncio.get_running_loop().call_soon(on_disconnect)

    def disconnect(self, *, cancelled: bool = False) -> None:
        """The client has disconnected, or has cancelled the turn."""
        self.left, self.cancelled = True, cancelled
        if self._on_disconnect is not None:
            self._on_disconnect()

    def detach(self) -> None:
        """The turn has ended: release what refers to its call."""
        self._on_disconnect = None

    async def deliver(self, chunk: StreamChunk) -> None:
        event = self.make_event(chunk)
        if event is not None:
            frame = self._frame("delta", event)
            self._recorded.add(frame + b"\n")
            await self.send(frame)

    def ping(self) -> None:
        """Does nothing: the WebSocket protocol has its own pings."""

    def final_frame(self, exchange: NativeExchange, result: CallResult) -> bytes:
        """The frame that ends the turn."""
        event = exchange.final_event(result)
        if self.cancelled and result.outcome.cut_short:
            event.finish_reason = "cancelled"
        return self._frame("final", event)

    def error_frame(self, error: TollkeeperError) -> bytes:
        """The frame that ends a turn that failed. It names the charge, if there is one."""
        return error_frame(error, self.id, self._charge_id)

    def stored_response(self, exchange: NativeExchange, result: CallResult) -> StoredResponse | None:
        """All frames that were sent, one a line; None if they are too long to be stored."""
        recorded = self._recorded.content
        if recorded is None:
            return None
        return StoredResponse(200, "application/x-ndjson", recorded + self.final_frame(exchange, result))

    async def send(self, frame: bytes) -> None:
        await send_frame(self._websocket, frame)

    def _frame(self, kind: str, event: msgspec.Struct) -> bytes:
        opening = orjson.dumps({"type": kind, "id": self.id})
        return opening[:-1] + b"," + msgspec.json.encode(event)[1:]


def error_frame(error: TollkeeperError, turn_id: str | None = None, charge_id: str | None = None) -> bytes:
    """The problem that an HTTP response would contain, with its Retry-After header as `retry_after`, in seconds."""
    _, problem, headers = problem_details(error)
    frame = {**problem, "type": "error", "id": turn_id}
    if "Retry-After" in headers:
        frame["retry_after"] = int(headers["Retry-After"])
    if charge_id is not None:
        frame["query_id"] = charge_id
    return orjson.dumps(frame)


def with_turn_id(turn_id: str | None, frame: bytes) -> bytes:
    """A frame of a stored response with the id of the present turn. No other byte of it changes."""
    opening = _UP_TO_ID.match(frame)
    return opening[1] + orjson.dumps(turn_id) + frame[opening.end() :] if opening is not None else frame


async def send_frame(websocket: WebSocket, frame: bytes) -> None:
    """Send a frame; does nothing if the client has disconnected."""
    try:
        await websocket.send_text(frame.decode())
    except (RuntimeError, WebSocketDisconnect):
        return
