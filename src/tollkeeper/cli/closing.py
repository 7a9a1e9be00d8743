"""Uvicorn's WebSocket protocol, which lets a running turn end when the server shuts down."""

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


class TurnsEndFirst(WebSocketsSansIOProtocol):
    """On shutdown, closes idle connections. The application closes the others when their turn is over.

    A turn that takes longer than the grace period is cancelled, as all calls are.
    """

    def shutdown(self) -> None:
        open_for_both = self.handshake_complete and not self.close_sent
        lets_turn_end = self.scope["state"].get("lets_turn_end") if open_for_both else None
        if lets_turn_end is None or not lets_turn_end():
            super().shutdown()
