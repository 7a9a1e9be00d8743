"""WS /ai/ws: one connection, many turns; each turn has its own limit check and its own charge.

Frames are JSON objects with a `type`. The client sends `auth` (the first, with `token`), `query` (a turn) and `cancel`.
The server sends `ready`, `delta`, `final` and `error`. One turn runs at a time. A client that can set headers
authenticates in the handshake, as in an HTTP request, and needs no `auth`. The response to a handshake has a
correlation id, as HTTP responses have, and a problem if the handshake is refused.

Every frame but `cancel` counts against the caller's rate limit; `server/websocket_protocol.py` limits all frames. An
idle connection is closed soon after its credential has expired or was revoked. A server that stops closes with 1012: at
once if no turn runs; else after the turn, which the end of the grace period cancels.
"""

import asyncio
import time
from uuid import uuid4

from fastapi import APIRouter, Response, WebSocket
from starlette.websockets import WebSocketDisconnect

from tollkeeper.api.dependencies import Services
from tollkeeper.api.errors import render_problem
from tollkeeper.api.middleware import correlation_id_of
from tollkeeper.api.native.socket_auth import authenticate_handshake, origin_is_allowed
from tollkeeper.api.native.socket_connection import SURFACE, SocketConnection, SocketForm
from tollkeeper.api.native.socket_frames import read_turn
from tollkeeper.errors import Forbidden, TollkeeperError
from tollkeeper.telemetry.correlation import correlation_id

PATH = "/ai/ws"

router = APIRouter()

FORM = SocketForm(PATH, lambda frame, _: read_turn(frame))


@router.websocket(PATH)
async def socket(websocket: WebSocket) -> None:
    """Serve turns until one side closes the connection."""
    await serve_socket(websocket, FORM)


async def serve_socket(websocket: WebSocket, form: SocketForm) -> None:
    """Serve the turns of a connection, whose frames have this form, until one side closes it."""
    started = time.perf_counter()
    services: Services = websocket.app.state.services
    correlation_id.set(correlation_id_of(websocket.scope) or uuid4().hex)
    try:
        await services.throttle.check_handshake(websocket.client.host if websocket.client is not None else "")
        if not origin_is_allowed(websocket, services.settings.origins):
            raise Forbidden("Pages of this origin may not open a connection.")
        authenticated = await authenticate_handshake(services, websocket.scope)
        if authenticated[1] is not None:
            authenticated[1].limits.require_surface(SURFACE)
    except TollkeeperError as error:
        status, body, headers = render_problem(error)
        await websocket.send_denial_response(Response(body, status, headers | _handshake_headers(started)))
        return
    own_headers = [(name.lower().encode(), value.encode()) for name, value in _handshake_headers(started).items()]
    await websocket.accept(headers=own_headers)
    connection = SocketConnection(websocket, services, authenticated, form)
    websocket.state.lets_turn_end = connection.lets_turn_end
    cancelled = False
    try:
        await connection.serve()
    except WebSocketDisconnect:
        pass
    except asyncio.CancelledError:
        cancelled = True
        raise
    finally:
        await connection.stop(cancelled=cancelled)


def _handshake_headers(started: float) -> dict[str, str]:
    return {"X-Correlation-ID": correlation_id.get(), "X-Process-Time": f"{time.perf_counter() - started:.6f}"}
