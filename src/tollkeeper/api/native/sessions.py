"""The caller's conversations: list, read and delete them."""

import re
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel

from tollkeeper.api.dependencies import ConversationOwner, ServicesDep, SessionDep
from tollkeeper.api.formats import Moment, iso
from tollkeeper.conversations.models import StoredConversation
from tollkeeper.conversations.repository import ConversationRepository, Cursor
from tollkeeper.errors import NotFound

router = APIRouter(prefix="/ai/sessions", tags=["ai"])

MAX_PAGE_SIZE = 100

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_CURSOR = r"^[0-9]{1,16}\.[A-Za-z0-9_.-]{1,100}$"

SessionId = Annotated[str, Path(examples=["physics"])]


class SessionResponse(BaseModel):
    """One conversation. `turns` counts its messages but the system prompt; `tokens` is an upper bound of theirs."""

    id: str
    created_at: Moment
    updated_at: Moment
    turns: int
    tokens: int


class SessionPage(BaseModel):
    """The newest conversations first. `next_cursor` is the cursor of the next page."""

    data: list[SessionResponse]
    next_cursor: str | None


class MessageResponse(BaseModel):
    """One message of the user or of the model."""

    role: Literal["user", "assistant"]
    content: str


class SessionWithMessagesResponse(SessionResponse):
    """A conversation with its stored messages, the oldest first."""

    system_prompt: str | None
    messages: list[MessageResponse]


@router.get("", summary="My conversations")
async def list_my_conversations(
    caller: ConversationOwner,
    session: SessionDep,
    services: ServicesDep,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE, examples=[50])] = 20,
    cursor: Annotated[str | None, Query(max_length=120, pattern=_CURSOR, examples=["1750000000000.physics"])] = None,
) -> SessionPage:
    repository = ConversationRepository(session, caller.principal, services.data_keys)
    found = await repository.list_page(after=_parse_cursor(cursor), limit=limit + 1)
    return SessionPage(
        data=[_session_response(stored) for stored in found[:limit]],
        next_cursor=_format_cursor(found[limit - 1]) if len(found) > limit else None,
    )


@router.get("/{session_id}", summary="One of my conversations, with its messages")
async def get_my_conversation(
    session_id: SessionId, caller: ConversationOwner, session: SessionDep, services: ServicesDep
) -> SessionWithMessagesResponse:
    repository = ConversationRepository(session, caller.principal, services.data_keys)
    found = await repository.find(_valid_name(session_id))
    if found is None or found.id is None:
        raise NotFound
    messages = [
        MessageResponse(role="user" if stored.role == "user" else "assistant", content=stored.content)
        for stored in await repository.messages(found.id)
    ]
    return SessionWithMessagesResponse(
        **_session_response(found).model_dump(), system_prompt=repository.system_prompt(found), messages=messages
    )


@router.delete("/{session_id}", status_code=204, summary="Delete a conversation")
async def forget_my_conversation(
    session_id: SessionId, caller: ConversationOwner, session: SessionDep, services: ServicesDep
) -> None:
    repository = ConversationRepository(session, caller.principal, services.data_keys)
    if not await repository.delete(_valid_name(session_id)):
        raise NotFound


def _valid_name(session_id: str) -> str:
    """Raises NotFound for a name that no conversation can have, without a query."""
    if not _NAME.fullmatch(session_id):
        raise NotFound
    return session_id


def _parse_cursor(cursor: str | None) -> Cursor | None:
    if cursor is None:
        return None
    created_ms, _, name = cursor.partition(".")
    return Cursor(int(created_ms), name)


def _format_cursor(last: StoredConversation) -> str:
    return f"{last.created_ms}.{last.name}"


def _session_response(stored: StoredConversation) -> SessionResponse:
    return SessionResponse(
        id=stored.name,
        created_at=iso(stored.created_ms),
        updated_at=iso(stored.updated_ms),
        turns=stored.turns,
        tokens=stored.tokens,
    )
