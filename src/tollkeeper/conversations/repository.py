"""One user's conversations in the database. Whose they are is part of every statement that is made here."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, delete, insert, text, update
from sqlmodel import and_, col, or_, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.conversations.bounds import first_kept
from tollkeeper.conversations.models import StoredConversation, StoredTurn
from tollkeeper.principal import Principal

_MAKE = text(
    "INSERT INTO conversations (tenant_id, user_id, name, turns, tokens, sequence, created_ms, updated_ms)"
    " VALUES (:tenant_id, :user_id, :name, 0, 0, 0, :now_ms, :now_ms) ON CONFLICT (tenant_id, user_id, name) DO NOTHING"
)


class Turn(NamedTuple):
    """A turn to be kept."""

    role: str
    content: str
    tokens: int


class Cursor(NamedTuple):
    """Where a page of the list goes on: after the conversation that was made then, and has that name."""

    created_ms: int
    name: str


class ConversationRepository:
    """What one user may see and change, in one transaction."""

    def __init__(self, session: AsyncSession, owner: Principal) -> None:
        self._session = session
        self._owner = owner

    async def find(self, name: str) -> StoredConversation | None:
        query = select(StoredConversation).where(self._mine(StoredConversation), StoredConversation.name == name)
        return (await self._session.exec(query)).first()

    async def turns(self, conversation_id: int) -> list[StoredTurn]:
        """The turns that are kept, in order."""
        query = select(StoredTurn).where(self._of(conversation_id)).order_by(col(StoredTurn.sequence))
        return list((await self._session.exec(query)).all())

    async def page(self, *, after: Cursor | None, most: int) -> list[StoredConversation]:
        """Conversations, the last made first."""
        made, name = col(StoredConversation.created_ms), col(StoredConversation.name)
        query = select(StoredConversation).where(self._mine(StoredConversation))
        if after is not None:
            query = query.where(or_(made < after.created_ms, and_(made == after.created_ms, name < after.name)))
        return list((await self._session.exec(query.order_by(made.desc(), name.desc()).limit(most))).all())

    async def delete(self, name: str) -> bool:
        """Whether there was one. Its turns go with it."""
        statement = delete(StoredConversation).where(
            self._mine(StoredConversation), col(StoredConversation.name) == name
        )
        return (await self._session.exec(statement)).rowcount > 0

    async def make(self, name: str, now_ms: int) -> bool:
        """Make a conversation, unless there is one of that name. Whether it was made."""
        values = self._owned | {"name": name, "now_ms": now_ms}
        return (await (await self._session.connection()).execute(_MAKE, values)).rowcount > 0

    async def append(
        self,
        which: ColumnElement[bool],
        turns: Sequence[Turn],
        system_prompt: str | None,
        most_tokens: int,
        now_ms: int,
    ) -> None:
        """Add turns at the end of a conversation, if it is there, and let fall out what is too much.

        The first statement locks the conversation, so the turns of one call stay together.
        """
        kept = turns[first_kept(turns, most_tokens) :]
        stored = StoredConversation
        values = {
            "turns": col(stored.turns) + len(kept),
            "tokens": col(stored.tokens) + sum(turn.tokens for turn in kept),
            "sequence": col(stored.sequence) + len(kept),
            "updated_ms": now_ms,
        }
        if system_prompt is not None:
            values["system_prompt"] = system_prompt
        grow = update(stored).where(self._mine(stored), which).values(values)
        returned = await self._session.exec(grow.returning(col(stored.id), col(stored.sequence), col(stored.tokens)))
        if (row := returned.first()) is None:
            return
        conversation_id, last, tokens = row
        first = last - len(kept) + 1
        if kept:
            await self._session.exec(insert(StoredTurn), params=self._rows(conversation_id, first, kept))
        if tokens > most_tokens or len(kept) < len(turns):
            await self._trim(conversation_id, most_tokens, oldest=first if len(kept) < len(turns) else 0)

    async def evict(self, most: int) -> None:
        """Delete the conversations that were not used for the longest time, so that `most` are left.

        One that is in use elsewhere at this moment is passed over.
        """
        used, identity = col(StoredConversation.updated_ms), col(StoredConversation.id)
        newest_first = select(used, identity).where(self._mine(StoredConversation))
        first = (
            await self._session.exec(newest_first.order_by(used.desc(), identity.desc()).offset(most).limit(1))
        ).first()
        if first is None:
            return
        last_used, last_id = first
        excess = select(identity).where(
            self._mine(StoredConversation), or_(used < last_used, and_(used == last_used, identity <= last_id))
        )
        statement = delete(StoredConversation).where(
            self._mine(StoredConversation), identity.in_(excess.with_for_update(skip_locked=True))
        )
        await self._session.exec(statement)

    async def _trim(self, conversation_id: int, most_tokens: int, oldest: int) -> None:
        """Delete what does not fit, and whatever is older than `oldest`, and count what is left."""
        query = select(StoredTurn.sequence, StoredTurn.role, StoredTurn.tokens).where(self._of(conversation_id))
        rows = (await self._session.exec(query.order_by(col(StoredTurn.sequence)))).all()
        turns = [Turn(role, "", tokens) for _, role, tokens in rows]
        begin = first_kept(turns, most_tokens)
        while begin < len(rows) and rows[begin][0] < oldest:
            begin += 1
        if begin == 0:
            return
        old = delete(StoredTurn).where(self._of(conversation_id), col(StoredTurn.sequence) <= rows[begin - 1][0])
        await self._session.exec(old)
        left = turns[begin:]
        this = and_(self._mine(StoredConversation), col(StoredConversation.id) == conversation_id)
        count = update(StoredConversation).where(this)
        await self._session.exec(count.values(turns=len(left), tokens=sum(turn.tokens for turn in left)))

    def _rows(self, conversation_id: int, first: int, turns: Sequence[Turn]) -> list[dict[str, Any]]:
        return [
            self._owned | {"conversation_id": conversation_id, "sequence": sequence} | turn._asdict()
            for sequence, turn in enumerate(turns, first)
        ]

    @property
    def _owned(self) -> dict[str, Any]:
        return {"tenant_id": self._owner.tenant_id, "user_id": self._owner.user_id}

    def _mine(self, table: type[StoredConversation] | type[StoredTurn]) -> ColumnElement[bool]:
        return and_(col(table.tenant_id) == self._owner.tenant_id, col(table.user_id) == self._owner.user_id)

    def _of(self, conversation_id: int) -> ColumnElement[bool]:
        return and_(self._mine(StoredTurn), col(StoredTurn.conversation_id) == conversation_id)
