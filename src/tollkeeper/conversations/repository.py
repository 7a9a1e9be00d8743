"""The conversations of one user in the database. Every statement is limited to that user's rows."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, delete, insert, text, update
from sqlmodel import and_, col, or_, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.conversations.cipher import ConversationCipher
from tollkeeper.conversations.models import StoredConversation, StoredMessage
from tollkeeper.conversations.trimming import first_kept_index
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.principal import Principal

_CREATE = text(
    "INSERT INTO conversations (tenant_id, user_id, name, turns, tokens, sequence, created_ms, updated_ms)"
    " VALUES (:tenant_id, :user_id, :name, 0, 0, 0, :now_ms, :now_ms) ON CONFLICT (tenant_id, user_id, name) DO NOTHING"
)


class NewMessage(NamedTuple):
    """A message, to be stored or as stored, in plain text. `tokens` is an upper bound."""

    role: str
    content: str
    tokens: int


class Cursor(NamedTuple):
    """Where a page of the list starts: after the conversation with this creation time and name."""

    created_ms: int
    name: str


class ConversationRepository:
    """Reads and writes one user's conversations, in one transaction. Their texts are stored encrypted with `keys`."""

    def __init__(self, session: AsyncSession, owner: Principal, keys: DataKeys) -> None:
        self._session = session
        self._owner = owner
        self._cipher = ConversationCipher(keys, owner)

    async def find(self, name: str) -> StoredConversation | None:
        """Returns the conversation of that name."""
        query = select(StoredConversation).where(self._is_owned(StoredConversation), StoredConversation.name == name)
        return (await self._session.exec(query)).first()

    def system_prompt(self, stored: StoredConversation) -> str | None:
        """The system prompt of a conversation, decrypted. Raises SealBroken."""
        return self._cipher.read_prompt(stored)

    async def messages(self, conversation_id: int) -> list[NewMessage]:
        """Returns the stored messages, decrypted, the oldest first. Raises SealBroken."""
        query = select(StoredMessage).where(self._is_in(conversation_id)).order_by(col(StoredMessage.sequence))
        rows = (await self._session.exec(query)).all()
        return [NewMessage(row.role, self._cipher.read_message(row), row.tokens) for row in rows]

    async def list_page(self, *, after: Cursor | None, limit: int) -> list[StoredConversation]:
        """Returns at most `limit` conversations, the newest first."""
        created, name = col(StoredConversation.created_ms), col(StoredConversation.name)
        query = select(StoredConversation).where(self._is_owned(StoredConversation))
        if after is not None:
            query = query.where(or_(created < after.created_ms, and_(created == after.created_ms, name < after.name)))
        return list((await self._session.exec(query.order_by(created.desc(), name.desc()).limit(limit))).all())

    async def delete(self, name: str) -> bool:
        """Delete a conversation with its messages. Returns whether it existed."""
        statement = delete(StoredConversation).where(
            self._is_owned(StoredConversation), col(StoredConversation.name) == name
        )
        return (await self._session.exec(statement)).rowcount > 0

    async def create(self, name: str, now_ms: int) -> bool:
        """Create an empty conversation, unless the name exists. Returns whether it was created."""
        values = self._owner_values | {"name": name, "now_ms": now_ms}
        return (await (await self._session.connection()).execute(_CREATE, values)).rowcount > 0

    async def append(
        self,
        name: str,
        target: ColumnElement[bool],
        messages: Sequence[NewMessage],
        system_prompt: str | None,
        max_tokens: int,
        now_ms: int,
    ) -> None:
        """Append messages to the conversation of that name that `target` selects, if it exists; trim to `max_tokens`.

        The first statement locks the conversation, so the messages of one call stay together.
        """
        kept = messages[first_kept_index(messages, max_tokens) :]
        stored = StoredConversation
        values = {
            "turns": col(stored.turns) + len(kept),
            "tokens": col(stored.tokens) + sum(message.tokens for message in kept),
            "sequence": col(stored.sequence) + len(kept),
            "updated_ms": now_ms,
        }
        if system_prompt is not None:
            values |= {"system_prompt": self._cipher.seal_prompt(name, system_prompt), "sealed": True}
        grow = update(stored).where(self._is_owned(stored), target).values(values)
        returned = await self._session.exec(grow.returning(col(stored.id), col(stored.sequence), col(stored.tokens)))
        if (row := returned.first()) is None:
            return
        conversation_id, last, tokens = row
        first = last - len(kept) + 1
        if kept:
            await self._session.exec(insert(StoredMessage), params=self._rows(conversation_id, first, kept))
        if tokens > max_tokens or len(kept) < len(messages):
            await self._trim(conversation_id, max_tokens, oldest=first if len(kept) < len(messages) else 0)

    async def evict(self, max_conversations: int) -> None:
        """Delete the least recently used conversations beyond `max_conversations`.

        Skips a conversation that another transaction has locked.
        """
        used, identity = col(StoredConversation.updated_ms), col(StoredConversation.id)
        newest_first = (
            select(used, identity).where(self._is_owned(StoredConversation)).order_by(used.desc(), identity.desc())
        )
        first = (await self._session.exec(newest_first.offset(max_conversations).limit(1))).first()
        if first is None:
            return
        last_used, last_id = first
        excess = select(identity).where(
            self._is_owned(StoredConversation), or_(used < last_used, and_(used == last_used, identity <= last_id))
        )
        statement = delete(StoredConversation).where(
            self._is_owned(StoredConversation), identity.in_(excess.with_for_update(skip_locked=True))
        )
        await self._session.exec(statement)

    async def _trim(self, conversation_id: int, max_tokens: int, oldest: int) -> None:
        """Delete the messages that do not fit, and those with a `sequence` below `oldest`; update the counts."""
        query = select(StoredMessage.sequence, StoredMessage.role, StoredMessage.tokens)
        query = query.where(self._is_in(conversation_id)).order_by(col(StoredMessage.sequence))
        rows = (await self._session.exec(query)).all()
        messages = [NewMessage(role, "", tokens) for _, role, tokens in rows]
        begin = first_kept_index(messages, max_tokens)
        while begin < len(rows) and rows[begin][0] < oldest:
            begin += 1
        if begin == 0:
            return
        old = delete(StoredMessage).where(
            self._is_in(conversation_id), col(StoredMessage.sequence) <= rows[begin - 1][0]
        )
        await self._session.exec(old)
        left = messages[begin:]
        this = and_(self._is_owned(StoredConversation), col(StoredConversation.id) == conversation_id)
        count = update(StoredConversation).where(this)
        await self._session.exec(count.values(turns=len(left), tokens=sum(message.tokens for message in left)))

    def _rows(self, conversation_id: int, first: int, messages: Sequence[NewMessage]) -> list[dict[str, Any]]:
        return [
            {
                **self._owner_values,
                "conversation_id": conversation_id,
                "sequence": sequence,
                "role": message.role,
                "content": self._cipher.seal_message(conversation_id, sequence, message.content),
                "sealed": True,
                "tokens": message.tokens,
            }
            for sequence, message in enumerate(messages, first)
        ]

    @property
    def _owner_values(self) -> dict[str, Any]:
        return {"tenant_id": self._owner.tenant_id, "user_id": self._owner.user_id}

    def _is_owned(self, table: type[StoredConversation] | type[StoredMessage]) -> ColumnElement[bool]:
        return and_(col(table.tenant_id) == self._owner.tenant_id, col(table.user_id) == self._owner.user_id)

    def _is_in(self, conversation_id: int) -> ColumnElement[bool]:
        return and_(self._is_owned(StoredMessage), col(StoredMessage.conversation_id) == conversation_id)
