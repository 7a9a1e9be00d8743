"""Conversations that were not used for long are deleted, with their messages, in chunks; used ones stay."""

import asyncio

import pytest
from sqlmodel import select

from support.deadlines import TEST_DEADLINE_S
from support.encryption import make_data_keys
from support.factories import FakeClock, make_principal
from tollkeeper.chat import Message
from tollkeeper.conversations import Conversations, retention
from tollkeeper.conversations.models import StoredConversation, StoredMessage
from tollkeeper.conversations.retention import ConversationRetention
from tollkeeper.database.engine import Database

DAYS = 90


async def names(database: Database) -> list[str]:
    async with database.session() as session:
        return sorted((await session.exec(select(StoredConversation.name))).all())


async def test_only_conversations_unused_for_so_many_days_are_deleted(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "CHUNK", 2)
    clock = FakeClock()
    conversations = Conversations(database, 1_000, keys=make_data_keys(), clock=clock)
    caller = await make_principal(database)

    async def talk(name: str) -> None:
        await (await conversations.open(caller, name, (Message("user", "question"),))).add("answer")

    for name in ("a", "b", "c", "d", "e", "used"):
        await talk(name)
    clock.step(60 * 86_400)
    await talk("used")
    kept = ConversationRetention(database, days=DAYS, clock=clock)
    assert await kept.delete_unused() == 0
    clock.step(30 * 86_400 + 1)
    assert await kept.delete_unused() == 5
    assert await names(database) == ["used"]
    async with database.session() as session:
        assert len((await session.exec(select(StoredMessage))).all()) == 4


async def test_the_task_deletes_at_each_round_and_survives_a_failure(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[str] = []
    done = asyncio.Event()

    async def wait() -> None:
        if len(rounds) == 2:
            done.set()
            await asyncio.Event().wait()

    async def delete_unused() -> int:
        rounds.append("round")
        if len(rounds) == 1:
            raise RuntimeError
        return 0

    kept = ConversationRetention(database, days=DAYS, clock=FakeClock(), wait=wait)
    monkeypatch.setattr(kept, "delete_unused", delete_unused)
    await kept.stop()
    kept.start()
    async with asyncio.timeout(TEST_DEADLINE_S):
        await done.wait()
    await kept.stop()
    assert rounds == ["round", "round"]
