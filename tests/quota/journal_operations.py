"""A journal with short pauses, and the operations that tests put into it."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from ledger_environment import LedgerEnvironment

from support.factories import charge_id, make_terms
from tollkeeper.chat import Usage
from tollkeeper.quota import journal as journal_module
from tollkeeper.quota.journal import Journal
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.operations import Reserve, Settle

LEASE_MS = 60_000


@asynccontextmanager
async def open_journal(env: LedgerEnvironment, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Journal]:
    """A second journal on the same store, with short pauses. It ignores stalls of the process."""
    monkeypatch.setattr(journal_module, "OUTAGE_PAUSE_S", 0.005)
    monkeypatch.setattr(journal_module, "POISON_PAUSE_S", 0.05)
    monkeypatch.setattr(journal_module, "DEADLINE_CHECK_S", 0.005)
    monkeypatch.setattr(journal_module, "STALL_CHECKS", math.inf)
    made = Journal(env.store, queue_limit=500)
    made.start()
    yield made
    env.store.down = False
    env.store.before_batch.set()
    await made.drain(5)
    await made.stop()


def reserve(env: LedgerEnvironment, name: str, size: int = 100) -> Reserve:
    return Reserve(charge_id(name), env.caller, make_terms(10, size - 10), LEASE_MS)


def settle(env: LedgerEnvironment, name: str, tokens: int = 50) -> Settle:
    return Settle(charge_id(name), env.caller.tenant_id, Usage(10, tokens - 10), Basis.PROVIDER)


async def block_first_batch(env: LedgerEnvironment, journal: Journal) -> "asyncio.Future[object]":
    """Block a batch before its transaction, so that later operations wait in the queue together."""
    env.store.before_batch.clear()
    env.store.started.clear()
    first = journal.submit(reserve(env, "first"))
    await env.store.started.wait()
    return first


async def cancel_in_commit(env: LedgerEnvironment, journal: Journal, size: int = 100) -> None:
    """Cancel a reserve after its commit, and before its result is returned. Wait until the journal is idle."""
    env.store.after_commit.clear()
    waiting = journal.submit(reserve(env, "gone", size))
    await env.store.committed.wait()
    waiting.cancel()
    env.store.after_commit.set()
    await journal.drain(5)


async def cancel_before_commit(env: LedgerEnvironment, journal: Journal) -> None:
    """Cancel a reserve before its transaction begins. Wait until the journal is idle."""
    waiting = await block_first_batch(env, journal)
    waiting.cancel()
    env.store.before_batch.set()
    await journal.drain(5)
