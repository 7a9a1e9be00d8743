"""A journal with short pauses, and the operations that tests put into it."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from books import Books

from support.factories import make_terms
from tollkeeper.chat import Usage
from tollkeeper.quota import journal as journal_module
from tollkeeper.quota.journal import Journal
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.operations import Reserve, Settle

LEASE_MS = 60_000


@asynccontextmanager
async def open_journal(books: Books, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Journal]:
    """A second journal on the same store, with short pauses. It never believes that the process itself stood still."""
    monkeypatch.setattr(journal_module, "OUTAGE_PAUSE_S", 0.005)
    monkeypatch.setattr(journal_module, "POISON_PAUSE_S", 0.05)
    monkeypatch.setattr(journal_module, "DEADLINE_CHECK_S", 0.005)
    monkeypatch.setattr(journal_module, "STALL_CHECKS", math.inf)
    made = Journal(books.store, queue_limit=500)
    made.start()
    yield made
    books.store.down = False
    books.store.before.set()
    await made.drain(5)
    await made.stop()


def reserve(books: Books, charge_id: str, size: int = 100) -> Reserve:
    return Reserve(charge_id, books.caller, make_terms(10, size - 10), LEASE_MS)


def settle(charge_id: str, tokens: int = 50) -> Settle:
    return Settle(charge_id, Usage(10, tokens - 10), Basis.PROVIDER)


async def begun(books: Books, journal: Journal) -> "asyncio.Future[object]":
    """A batch that stands before its transaction, so that what comes now waits in the queue together."""
    books.store.before.clear()
    books.store.begun.clear()
    first = journal.submit(reserve(books, "first"))
    await books.store.begun.wait()
    return first
