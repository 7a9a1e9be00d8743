"""Conversations around a call: opened before the call, appended to after it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import structlog
from sqlalchemy import ColumnElement
from sqlmodel import col

from tollkeeper.chat import Message
from tollkeeper.clock import Clock
from tollkeeper.conversations.models import StoredConversation
from tollkeeper.conversations.repository import ConversationRepository, NewMessage
from tollkeeper.conversations.trimming import first_kept_index, max_tokens_of
from tollkeeper.database.engine import Database
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.errors import InvalidRequest
from tollkeeper.principal import Principal
from tollkeeper.tenant_scope import TenantScope

MAX_CONVERSATIONS = 1_000
"""Per user. Beyond it, the least recently used conversation is deleted."""

MAX_SYSTEM_PROMPT_BYTES = 65_536
"""The system prompt is not trimmed, so it has a limit of its own."""

APPEND_TIMEOUT_S = 5.0

log = structlog.get_logger("tollkeeper.conversations")


class Conversations:
    """The conversations of all users. Each user has their own names.

    Of each conversation, the newest rounds are stored, up to `max_tokens` together. A message's tokens are bounded by
    its bytes, which holds for every model. A round that exceeds `max_tokens` by itself is not stored.
    """

    def __init__(
        self,
        database: Database,
        max_tokens: int,
        *,
        keys: DataKeys,
        clock: Clock,
        max_conversations: int = MAX_CONVERSATIONS,
    ) -> None:
        self._database = database
        self._max_tokens = max_tokens
        self._max_conversations = max_conversations
        self._keys = keys
        self._clock = clock

    async def open(self, caller: Principal, session_id: str, messages: tuple[Message, ...]) -> "Conversation":
        """Returns the caller's conversation of that name, continued by `messages`; a new one if there is none.

        Writes nothing, and leaves no transaction open. Raises InvalidRequest for a system prompt that is too large to
        be stored, DatabaseUnavailable when the database does not respond.
        """
        new_prompt = "\n\n".join(message.text for message in messages if message.role == "system") or None
        if new_prompt is not None and len(new_prompt.encode()) > MAX_SYSTEM_PROMPT_BYTES:
            raise InvalidRequest(f"In a session, the system prompt can have at most {MAX_SYSTEM_PROMPT_BYTES} bytes.")
        new_messages = tuple(message for message in messages if message.role != "system")
        async with self._database.session(TenantScope(caller.tenant_id)) as session:
            repository = ConversationRepository(session, caller, self._keys)
            stored = await repository.find(session_id)
            history = await repository.messages(stored.id) if stored is not None and stored.id is not None else []
            stored_prompt = repository.system_prompt(stored) if stored is not None else None
        history = history[first_kept_index(history, self._max_tokens) :]
        prompt = new_prompt or stored_prompt
        earlier = (*((Message("system", prompt),) if prompt else ()), *map(_to_message, history))
        pending = _PendingAppend(
            caller, session_id, stored.id if stored is not None else None, new_messages, new_prompt
        )
        return Conversation(session_id, (*earlier, *new_messages), partial(self._append, pending))

    async def _append(self, pending: "_PendingAppend", answer: str) -> None:
        """Store the messages of a call and its answer, in one transaction."""
        new_messages = [
            *(_to_new_message(message.role, message.text) for message in pending.messages),
            _to_new_message("assistant", answer),
        ]
        now_ms, is_created = self._clock.now_ms(), False
        scope = TenantScope(pending.owner.tenant_id)
        async with asyncio.timeout(APPEND_TIMEOUT_S), self._database.session(scope) as session:
            repository = ConversationRepository(session, pending.owner, self._keys)
            if pending.conversation_id is None:
                is_created = await repository.create(pending.name, now_ms)
            await repository.append(
                pending.name, pending.target, new_messages, pending.system_prompt, self._max_tokens, now_ms
            )
            if is_created:
                await repository.evict(self._max_conversations)


class _PendingAppend(NamedTuple):
    """What a call adds to a conversation. `conversation_id` is None if there was none of that name at the start."""

    owner: Principal
    name: str
    conversation_id: int | None
    messages: tuple[Message, ...]
    system_prompt: str | None

    @property
    def target(self) -> ColumnElement[bool]:
        """Selects the conversation: by id, so that one of the same name, created meanwhile, is not taken for it."""
        if self.conversation_id is not None:
            return col(StoredConversation.id) == self.conversation_id
        return col(StoredConversation.name) == self.name


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation during one call. `id` is the name that the caller gave it.

    `messages` is the input of the model: the system prompt (of this call, else the newest stored one), the stored
    messages, and the messages of this call.
    """

    id: str
    messages: tuple[Message, ...]
    _append: Callable[[str], Awaitable[None]]

    async def add(self, answer: str) -> None:
        """Store the messages of this call and the answer, after those that other calls have added meanwhile.

        Does nothing for a conversation that was deleted during the call, and for an answer without text, since models
        reject empty messages. Never raises: a failure is logged, and the client receives the answer all the same.
        """
        if not answer.strip():
            return
        try:
            await self._append(answer)
        except Exception as error:
            log.error("conversation.not_remembered", error=type(error).__name__)


def _to_message(stored: NewMessage) -> Message:
    return Message("user" if stored.role == "user" else "assistant", stored.content)


def _to_new_message(role: str, text: str) -> NewMessage:
    """Returns the row, without the characters that databases reject: NUL, and half surrogate pairs."""
    text = text.replace("\0", "").encode(errors="replace").decode()
    return NewMessage(role, text, max_tokens_of(text))
