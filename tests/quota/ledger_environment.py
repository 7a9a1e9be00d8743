"""A ledger under test, with its database, a store that can fail, a fake clock, one caller, and a reader."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from faulty_store import FaultyStore
from snapshot import Charge, Reader, Snapshot, Window, audit, make_reader, read_snapshot

from support.factories import FakeClock, make_principal, make_store, set_limit, user_quota
from tollkeeper.database.engine import Database
from tollkeeper.principal import Principal
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.decide import decide
from tollkeeper.quota.rules.operations import Operation
from tollkeeper.quota.rules.page import Page, ReadSet
from tollkeeper.quota.rules.windows import Period
from tollkeeper.quota.stores.base import Store

LEASE_S = 60.0


@dataclass
class LedgerEnvironment:
    database: Database
    clock: FakeClock
    store: FaultyStore
    ledger: Ledger
    caller: Principal
    reader: Reader
    stopped: bool = False

    async def idle(self) -> None:
        """Wait until the journal's queue is empty."""
        assert await self.ledger._journal.drain(5)

    async def stop(self, drain_seconds: float = 5) -> None:
        if not self.stopped:
            self.stopped = True
            await self.ledger.stop(drain_seconds)

    async def snapshot(self) -> Snapshot:
        """Everything, audited."""
        snapshot = await read_snapshot(self.reader)
        audit(snapshot)
        return snapshot

    async def charges(self) -> dict[str, Charge]:
        return (await self.snapshot()).charges

    async def only_charge(self) -> Charge:
        [charge] = (await self.charges()).values()
        return charge

    async def window(self) -> Window:
        """The caller's window of today."""
        snapshot = await self.snapshot()
        [window] = [
            one for one in snapshot.windows.values() if snapshot.quota_of(one.id).user_id == self.caller.user_id
        ]
        return window


@asynccontextmanager
async def open_ledger_environment(
    database_url: str, *, limit: int = 1_000, queue_limit: int = 10_000
) -> AsyncIterator[LedgerEnvironment]:
    """A caller with a quota of `limit` tokens a day."""
    database, clock = Database(database_url), FakeClock()
    store = FaultyStore(make_store(database_url, clock))
    ledger = Ledger(store, lease_seconds=LEASE_S, queue_limit=queue_limit)
    reader = await make_reader(database_url)
    ledger.start()
    caller = await make_principal(database)
    await set_limit(ledger, user_quota(caller, Period.DAY), limit)
    store.runs = 0
    store.started.clear()
    store.committed.clear()
    env = LedgerEnvironment(database, clock, store, ledger, caller, reader)
    try:
        yield env
    finally:
        store.down = False
        store.before_batch.set()
        store.after_commit.set()
        await env.stop()
        await reader.close()
        await database.close()


class _RowsLocked(Exception):
    """Another session has locked what the batch needs."""


async def batch(store: Store, *operations: Operation, again: bool = False) -> list[object]:
    """Run a batch on a store, without a journal that would hide a failure. `again`: the response to COMMIT was lost.

    What another session keeps locked for longer than the store waits is waited for, as the journal does.
    """
    read_set = ReadSet()
    for operation in operations:
        operation.declare_reads(read_set, retried=again)
    results: list[object] = []

    def work(page: Page) -> None:
        if page.locked is not None:
            raise _RowsLocked
        results[:] = decide(page, operations)

    while True:
        try:
            await store.run(read_set, work)
        except _RowsLocked:
            await asyncio.sleep(0.01)
        else:
            return results
