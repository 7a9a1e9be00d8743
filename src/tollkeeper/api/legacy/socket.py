"""WS /ws/generate: the turns of /ai/ws, with frames that have no `type`."""

from typing import Annotated

from fastapi import APIRouter, WebSocket
from msgspec import Meta

from tollkeeper.api.legacy.schemas import LegacyGenerateRequest, require_own_id
from tollkeeper.api.native.socket import serve_socket
from tollkeeper.api.native.socket_connection import SocketForm
from tollkeeper.api.native.socket_frames import TurnFrame
from tollkeeper.api.strict_json import decode
from tollkeeper.principal import Principal

router = APIRouter()


class LegacyTurnFrame(LegacyGenerateRequest, kw_only=True, forbid_unknown_fields=True):
    """Starts a turn. Every frame of the answer has its `id`."""

    id: Annotated[str, Meta(max_length=100)] | None = None


def _read_turn(frame: bytes, caller: Principal) -> TurnFrame:
    """Raises InvalidJson, InvalidRequest; Forbidden for the id of another user."""
    sent = decode(LegacyTurnFrame, frame)
    require_own_id(caller, sent.user_id)
    return TurnFrame(
        id=sent.id,
        prompt=sent.prompt,
        system_prompt=sent.system_prompt,
        model=sent.model,
        max_tokens=sent.max_tokens,
        temperature=sent.temperature,
    )


FORM = SocketForm("/ws/generate", _read_turn, announces=False)


@router.websocket(FORM.path)
async def generate_socket(websocket: WebSocket) -> None:
    """Serve turns until one side closes the connection."""
    await serve_socket(websocket, FORM)
