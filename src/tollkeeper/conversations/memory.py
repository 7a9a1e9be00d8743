"""Conversations as the doors use them: opened before a call, added to after it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import structlog
from sqlalchemy import ColumnElement
from sqlmodel import col

from tollkeeper.chat import Message
from tollkeeper.clock import Clock, SystemClock
from tollkeeper.conversations.bounds import first_kept, most_tokens_of
from tollkeeper.conversations.models import StoredConversation, StoredTurn
from tollkeeper.conversations.repository import ConversationRepository, Turn
from tollkeeper.db import Database
from tollkeeper.errors import InvalidRequest
from tollkeeper.principal import Principal

MAX_CONVERSATIONS = 1_000
"""Per user. Of more, the one that was not used for the longest time falls out."""

MAX_SYSTEM_PROMPT = 65_536
"""In bytes: it stays, so it cannot be as large as one likes."""

ADDS_WITHIN_S = 5.0

log = structlog.get_logger("tollkeeper.conversations")


class Conversations:
    """Every user's conversations. A name means something to its user only.

    Of each, the newest exchanges are kept, up to `most_tokens` together: counted by their bytes, the only bound that
    holds for every model. An exchange that is larger than that by itself is not kept.
    """

    def __init__(
        self,
        database: Database,
        most_tokens: int,
        *,
        most_conversations: int = MAX_CONVERSATIONS,
        clock: Clock | None = None,
    ) -> None:
        self._database = database
        self._most_tokens = most_tokens
        self._most_conversations = most_conversations
        self._clock = clock or SystemClock()

    async def open(self, caller: Principal, session_id: str, turns: tuple[Message, ...]) -> "Conversation":
        """The caller's conversation of that name, going on with `turns`; an empty one, if there is none yet.

        Nothing is written, and no transaction is left open. Raises InvalidRequest for a system prompt that is too
        large to be kept, LedgerUnavailable when the database cannot be reached.
        """
        given = "\n\n".join(turn.text for turn in turns if turn.role == "system") or None
        if given is not None and len(given.encode()) > MAX_SYSTEM_PROMPT:
            raise InvalidRequest(f"In a session, the system prompt can have at most {MAX_SYSTEM_PROMPT} bytes.")
        said = tuple(turn for turn in turns if turn.role != "system")
        async with self._database.session() as session:
            shelf = ConversationRepository(session, caller)
            stored = await shelf.find(session_id)
            known = await shelf.turns(stored.id) if stored is not None and stored.id is not None else []
        known = known[first_kept(known, self._most_tokens) :]
        system = given or (stored.system_prompt if stored is not None else None)
        before = (*((Message("system", system),) if system else ()), *map(_message, known))
        opening = _Opening(caller, session_id, stored.id if stored is not None else None, said, given)
        return Conversation(session_id, (*before, *said), partial(self._add, opening))

    async def _add(self, opening: "_Opening", answer: str) -> None:
        """Write down a call's turns and its answer, in one transaction."""
        turns = [*(_turn(turn.role, turn.text) for turn in opening.said), _turn("assistant", answer)]
        now_ms, made = self._clock.now_ms(), False
        async with asyncio.timeout(ADDS_WITHIN_S), self._database.session() as session:
            shelf = ConversationRepository(session, opening.owner)
            if opening.conversation_id is None:
                made = await shelf.make(opening.name, now_ms)
            await shelf.append(opening.which, turns, opening.system_prompt, self._most_tokens, now_ms)
            if made:
                await shelf.evict(self._most_conversations)


class _Opening(NamedTuple):
    """What a call began with. `conversation_id` is None when there was no conversation of that name."""

    owner: Principal
    name: str
    conversation_id: int | None
    said: tuple[Message, ...]
    system_prompt: str | None

    @property
    def which(self) -> ColumnElement[bool]:
        if self.conversation_id is not None:
            return col(StoredConversation.id) == self.conversation_id
        return col(StoredConversation.name) == self.name


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation on the way through a call. `id` is the caller's name for it.

    `turns` is what to ask the model: the system prompt (this call's, else the one that was given last), what is kept of
    before, and what this call says.
    """

    id: str
    turns: tuple[Message, ...]
    _keep: Callable[[str], Awaitable[None]]

    async def add(self, answer: str) -> None:
        """Remember what this call said and the answer, after whatever was added meanwhile.

        A conversation that was deleted while the model spoke stays deleted. An answer without any text is not
        remembered, nor is its question, since models refuse empty turns. Never raises: the answer is there, and it is
        given also when it cannot be remembered.
        """
        if not answer.strip():
            return
        try:
            await self._keep(answer)
        except Exception as error:
            log.error("conversation.not_remembered", error=type(error).__name__)


def _message(stored: StoredTurn) -> Message:
    return Message("user" if stored.role == "user" else "assistant", stored.content)


def _turn(role: str, text: str) -> Turn:
    """A turn to be kept, without what databases refuse in text."""
    text = text.replace("\0", "").encode(errors="replace").decode()
    return Turn(role, text, most_tokens_of(text))
