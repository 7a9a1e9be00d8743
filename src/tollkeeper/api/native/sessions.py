"""The caller's conversations: which there are, what was said in them, and forgetting them."""

import re
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel

from tollkeeper.api.dependencies import Caller, Session
from tollkeeper.api.formats import iso
from tollkeeper.conversations.models import StoredConversation
from tollkeeper.conversations.repository import ConversationRepository, Cursor
from tollkeeper.errors import NotFound

router = APIRouter(prefix="/ai/sessions", tags=["ai"])

MAX_PER_PAGE = 100

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_CURSOR = r"^[0-9]{1,16}\.[A-Za-z0-9_.-]{1,100}$"


class SessionShown(BaseModel):
    """One conversation. `tokens` is the most that its turns can have; the system prompt is not one of the turns."""

    id: str
    created_at: str | None
    updated_at: str | None
    turns: int
    tokens: int


class SessionPage(BaseModel):
    """The last made first; `next_cursor` goes on where this page ends."""

    data: list[SessionShown]
    next_cursor: str | None


class TurnShown(BaseModel):
    """What one of the two said."""

    role: Literal["user", "assistant"]
    content: str


class SessionRead(SessionShown):
    """A conversation and what is kept of it, the oldest turn first."""

    system_prompt: str | None
    messages: list[TurnShown]


@router.get("", summary="My conversations")
async def my_sessions(
    caller: Caller,
    session: Session,
    limit: Annotated[int, Query(ge=1, le=MAX_PER_PAGE)] = 20,
    cursor: Annotated[str | None, Query(max_length=120, pattern=_CURSOR)] = None,
) -> SessionPage:
    found = await ConversationRepository(session, caller.principal).page(after=_place(cursor), most=limit + 1)
    more = len(found) > limit
    return SessionPage(
        data=[_shown(one) for one in found[:limit]], next_cursor=_cursor(found[limit - 1]) if more else None
    )


@router.get("/{session_id}", summary="What was said in a conversation")
async def my_session(session_id: str, caller: Caller, session: Session) -> SessionRead:
    shelf = ConversationRepository(session, caller.principal)
    found = await shelf.find(_name(session_id))
    if found is None or found.id is None:
        raise NotFound
    messages = [
        TurnShown(role="user" if turn.role == "user" else "assistant", content=turn.content)
        for turn in await shelf.turns(found.id)
    ]
    return SessionRead(**_shown(found).model_dump(), system_prompt=found.system_prompt, messages=messages)


@router.delete("/{session_id}", status_code=204, summary="Forget a conversation")
async def forget_my_session(session_id: str, caller: Caller, session: Session) -> None:
    if not await ConversationRepository(session, caller.principal).delete(_name(session_id)):
        raise NotFound


def _name(session_id: str) -> str:
    """Raises NotFound for what is no name at all, before a database has to look at it."""
    if not _NAME.fullmatch(session_id):
        raise NotFound
    return session_id


def _place(cursor: str | None) -> Cursor | None:
    if cursor is None:
        return None
    made, _, name = cursor.partition(".")
    return Cursor(int(made), name)


def _cursor(last: StoredConversation) -> str:
    return f"{last.created_ms}.{last.name}"


def _shown(stored: StoredConversation) -> SessionShown:
    return SessionShown(
        id=stored.name,
        created_at=iso(stored.created_ms),
        updated_at=iso(stored.updated_ms),
        turns=stored.turns,
        tokens=stored.tokens,
    )
