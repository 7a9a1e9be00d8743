"""The frames of one WebSocket: receiving with a limit of size, sending, and closing."""

from contextlib import suppress
from typing import NoReturn

from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect

from tollkeeper.api.native import close_codes
from tollkeeper.api.native.socket_listener import send_frame


class FrameChannel:
    """A connection whose frames are text. Sending and closing do nothing once the client has disconnected."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def receive(self, max_bytes: int) -> bytes:
        """The next frame. Raises WebSocketDisconnect, also after a frame that closes the connection."""
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        text = message.get("text")
        if text is None:
            await self.end(close_codes.NOT_TEXT, "frames are text")
        frame: bytes = text.encode("utf-8", "surrogatepass")
        if len(frame) > max_bytes:
            await self.end(close_codes.TOO_LARGE, "the frame is too large")
        return frame

    async def send(self, frame: bytes) -> None:
        """Send a frame."""
        await send_frame(self._websocket, frame)

    async def close(self, code: int, reason: str) -> None:
        """Close the connection."""
        with suppress(RuntimeError, WebSocketDisconnect):  # the client may have disconnected already
            await self._websocket.close(code, reason)

    async def end(self, code: int, reason: str) -> NoReturn:
        """Close the connection. Raises WebSocketDisconnect."""
        await self.close(code, reason)
        raise WebSocketDisconnect(code)
