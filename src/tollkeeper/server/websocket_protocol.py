"""Uvicorn's WebSocket protocol with a budget for frames, which also lets a running turn end at shutdown.

Uvicorn answers each ping at once and queues each message. A client could keep the event loop busy with frames of a few
bytes, before it has authenticated.
"""

import time
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from tollkeeper.server.limits import SOCKET_BYTES, SOCKET_FRAMES_PER_SECOND, Connections, EdgeLimits

TOO_MUCH = 4429
LINGER_S = 2.0
"""How long input is dropped after the close frame, so that the client receives it."""
SLICE_BYTES = 4096
"""How much input is parsed between two looks at the budget."""


def bounded_websocket_protocol(limits: EdgeLimits, connections: Connections) -> type[WebSocketsSansIOProtocol]:
    """A protocol class with these limits. What they refuse is counted in `connections`."""
    attributes = {"limits": limits, "open_connections": connections}
    return type("BoundedWebSocketProtocol", (_BoundedWebSocketProtocol,), attributes)


class Budget:
    """A token bucket: `rate` units a second, up to `burst` of them at once."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst, self._left = rate, burst, burst
        self._at = time.monotonic()

    def spend(self, units: float) -> bool:
        """Take that many units. Returns False where there are fewer."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate) - units
        self._at = now
        return self._left >= 0


class _BoundedWebSocketProtocol(WebSocketsSansIOProtocol):
    limits: EdgeLimits
    open_connections: Connections

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.when_lost: Callable[[], None] = lambda: None
        """Called when the connection is closed."""
        limits = self.limits
        self._frames = Budget(limits.socket_frames_per_s, limits.socket_frames_burst)
        self._bytes = Budget(limits.socket_bytes_per_s, limits.socket_bytes_burst)
        self._refused = False

    def data_received(self, data: bytes) -> None:
        if not self.handshake_initiated:
            super().data_received(data)
            return
        for position in range(0, len(data), SLICE_BYTES):
            if self._refused or self.transport.is_closing():
                return
            part = data[position : position + SLICE_BYTES]
            if not self._bytes.spend(len(part)):
                self._refuse(SOCKET_BYTES)
                return
            super().data_received(part)

    def handle_events(self) -> None:
        if self.handshake_initiated:
            frames = [event for event in self.conn.events if isinstance(event, Frame)]
            if frames and not self._frames.spend(len(frames)):
                self._refuse(SOCKET_FRAMES_PER_SECOND)
                return
        super().handle_events()

    def connection_lost(self, exc: Exception | None) -> None:
        self.when_lost()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close the connection; but where a turn runs, the application closes it when the turn is over.

        A turn that takes longer than the grace period is cancelled, as all calls are.
        """
        is_open = self.handshake_complete and not self.close_sent
        lets_turn_end = self.scope["state"].get("lets_turn_end") if is_open else None
        if lets_turn_end is None or not lets_turn_end():
            super().shutdown()

    def _refuse(self, setting: str) -> None:
        """Close with TOO_MUCH. The application receives a disconnect, and a running turn is settled."""
        self.open_connections.refusals[setting] += 1
        self._refused = True
        self.conn.events_received()
        if self.handshake_complete and not self.close_sent:
            self.conn.send_close(TOO_MUCH, "too many frames or bytes")
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
        self.disconnected = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": TOO_MUCH})
        self.transport.resume_reading()  # what comes is dropped: with unread input, the client would see a reset
        self.close_timer = self.loop.call_later(LINGER_S, self.transport.close)
