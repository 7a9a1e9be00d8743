"""What becomes of WebSockets when the server is told to stop."""

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


class TurnsEndFirst(WebSocketsSansIOProtocol):
    """Uvicorn's WebSockets; but one on which a turn runs is closed by the application, when that is over.

    Whatever takes longer than the grace period is cut, as all calls are.
    """

    def shutdown(self) -> None:
        open_for_both = self.handshake_complete and not self.close_sent
        lets_turn_end = self.scope["state"].get("lets_turn_end") if open_for_both else None
        if lets_turn_end is None or not lets_turn_end():
            super().shutdown()
