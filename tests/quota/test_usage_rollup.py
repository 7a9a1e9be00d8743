"""The roll-ups of usage are the sums of the charges, whatever happens to a charge, and whenever it is committed."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from archived_ledger import open_archived_ledger
from ledger_environment import batch
from sqlalchemy import text
from verified_ledger import TERMS, VerifiedLedger, open_verified

from support.factories import FakeClock, make_principal, make_store, make_terms, set_limit, user_quota
from tollkeeper.chat import Usage
from tollkeeper.errors import LedgerConflict
from tollkeeper.quota import time_sorted_ids
from tollkeeper.quota.reservation import Reservation
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.operations import BookFree, Release, Reserve, Settle
from tollkeeper.quota.time_sorted_ids import new_id, usage_bucket_of
from tollkeeper.usage import rollup as rollup_module
from tollkeeper.usage.buckets import DAY_MS, MEASURES, NOTHING, Cell, DayKey, Sums, add, add_to_days
from tollkeeper.usage.rollup import UsageRollup

pytestmark = pytest.mark.stock_postgres


@pytest.fixture
async def ledger(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[VerifiedLedger]:
    """The times of ids are those of the ledger's clock."""
    clock = FakeClock()
    monkeypatch.setattr(time_sorted_ids, "time", SimpleNamespace(time_ns=lambda: clock.ms * 1_000_000))
    async with open_verified(database_url, clock) as made:
        yield made


async def fetch(ledger: VerifiedLedger, statement: str) -> list[Any]:
    async with ledger.database.session() as session:
        return list((await (await session.connection()).execute(text(statement))).all())


def sums_of(charge: Any) -> Sums:
    """What one charge adds to the sums, by the columns of its row."""
    amounts: Counter[str] = Counter({name: getattr(charge, name, None) or 0 for name in MEASURES})
    amounts["calls"] = int(charge.state == "settled" and charge.basis != "cache")
    amounts["cached_calls"] = int(charge.basis == "cache")
    amounts["failed_calls"] = int(charge.state == "released")
    if charge.refunded:
        amounts["refunded_tokens"] = charge.cost_tokens
        amounts["refunded_micro_usd"] = charge.cost_micro_usd or 0
    return tuple(amounts[name] for name in MEASURES)


async def require_agreement(ledger: VerifiedLedger) -> dict[tuple[int, int, Cell], Sums]:
    """The stored sums are those of the closed charges, and those of the days are the sums of their buckets."""
    buckets: dict[tuple[int, int, Cell], Sums] = {}
    days: dict[tuple[int, DayKey], Sums] = {}
    for charge in await fetch(ledger, "SELECT * FROM charges WHERE closed_ms IS NOT NULL"):
        names = charge.provider, charge.model, charge.surface
        cell = Cell(charge.user_id, charge.key_id or "", charge.group_id or 0, *names, charge.tags or "")
        place = charge.tenant_id, usage_bucket_of(charge.id), cell
        buckets[place] = add(buckets.get(place, NOTHING), sums_of(charge))
    for (tenant_id, bucket_ms, cell), sums in buckets.items():
        of_day: dict[DayKey, Sums] = {}
        add_to_days(of_day, bucket_ms, cell, sums)
        for key, more in of_day.items():
            days[tenant_id, key] = add(days.get((tenant_id, key), NOTHING), more)
    columns = ", ".join(("tenant_id", "bucket_ms", *Cell._fields, *MEASURES))
    found = await fetch(ledger, f"SELECT {columns} FROM usage_buckets")
    width = len(Cell._fields) + 2
    assert {(row[0], row[1], Cell(*row[2:width])): tuple(row[width:]) for row in found} == buckets
    columns = ", ".join(("tenant_id", *DayKey._fields, *MEASURES))
    found = await fetch(ledger, f"SELECT {columns} FROM usage_days")
    width = len(DayKey._fields) + 1
    assert {(row[0], DayKey(*row[1:width])): tuple(row[width:]) for row in found} == days
    return buckets


async def test_whatever_happens_to_charges_the_sums_agree_with_them(ledger: VerifiedLedger) -> None:
    """Calls of two users, at any time of two days, that end in every way; roll-ups run between any two steps."""
    chance = random.Random(7)
    rollup = UsageRollup(ledger.database, ledger.clock)
    other = await make_principal(ledger.database, ledger.caller.tenant_id)
    await set_limit(ledger.ledger, user_quota(other), 1_000_000)
    settled, lost, store = list[str](), list[Reservation](), make_store(ledger.url, ledger.clock)

    async def call() -> None:
        caller = chance.choice([ledger.caller, other])
        terms = TERMS._replace(model=chance.choice(["small", "large"]), surface=chance.choice(["chat", "query"]))
        async with ledger.ledger.reservation(caller, terms) as reservation:
            basis = chance.choice([Basis.PROVIDER, Basis.COUNTED, Basis.UNKNOWN])
            reservation.set_usage(Usage(chance.randrange(20), chance.randrange(200), 3), basis)
        settled.append(reservation.charge_id)

    async def fail() -> None:
        reserved = Reserve(new_id("chg"), ledger.caller, TERMS, 60_000)
        await batch(store, reserved)
        await batch(store, Release(reserved.charge_id, ledger.caller.tenant_id, error="provider_error"))

    async def free() -> None:
        await ledger.ledger.book_free(other, make_terms())

    async def expire() -> None:
        lost.append(await ledger.expire())

    async def settle_late() -> None:
        if lost:
            await ledger.settle_late(lost.pop(), Usage(chance.randrange(20), chance.randrange(300)))

    async def refund() -> None:
        if settled:
            with suppress(LedgerConflict):  # it cost nothing
                await ledger.refund(settled.pop(chance.randrange(len(settled))))

    async def wait() -> None:
        ledger.clock.step(chance.choice([1, 700, 5_000]))

    async def roll_up() -> None:
        await rollup.run()
        await require_agreement(ledger)

    steps = [call, call, call, fail, free, expire, settle_late, refund, wait, roll_up]
    for _ in range(70):
        await chance.choice(steps)()
    await rollup.run()
    sums = await require_agreement(ledger)
    assert all(sum(column) > 0 for column in zip(*sums.values(), strict=True)), sums
    assert await rollup.run() == 0
    await store.close()


async def test_a_change_that_is_committed_after_later_ones_is_not_missed(ledger: VerifiedLedger) -> None:
    """Its note has a lower number than notes that were read and deleted before."""
    if ledger.url.startswith("sqlite"):
        pytest.skip("SQLite has one writer at a time")
    rollup, store = UsageRollup(ledger.database, ledger.clock), make_store(ledger.url, ledger.clock)
    late = Reserve(new_id("chg"), ledger.caller, TERMS, 60_000)
    await batch(store, late)
    other = await make_principal(ledger.database)  # of another tenant, whose rows nobody else locks
    await set_limit(ledger.ledger, user_quota(other), 1_000)
    async with ledger.database.session() as session:
        connection = await session.connection()
        note = text("INSERT INTO usage_changes (tenant_id, charge_id) VALUES (:tenant_id, :id)")
        await connection.execute(note, {"tenant_id": ledger.caller.tenant_id, "id": late.charge_id})
        await connection.execute(text("UPDATE charges SET closed_ms = 1, state = 'released', basis = 'none'"))
        sooner = Reserve(new_id("chg"), other, make_terms(), 60_000)
        await batch(store, sooner)
        await batch(store, Settle(sooner.charge_id, other.tenant_id, Usage(1, 2), Basis.PROVIDER))
        assert await rollup.run() == 1
        assert [row.cost_tokens for row in await fetch(ledger, "SELECT * FROM usage_buckets")] == [3]
    assert await rollup.run() == 1
    assert len(await require_agreement(ledger)) == 2
    await store.close()


async def test_sums_are_written_a_few_at_a_time_and_a_run_that_is_killed_between_loses_nothing(
    ledger: VerifiedLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollup_module, "CELLS_PER_TRANSACTION", 2)
    for model in ("a", "b", "c", "d", "e"):
        async with ledger.ledger.reservation(ledger.caller, TERMS._replace(model=model)) as reservation:
            reservation.set_usage(Usage(3, 4))
    original, written = UsageRollup._write_some, list[int]()

    async def write_once(rollup: UsageRollup, changes: Any, revision: int, notes: Any) -> bool:
        if written:
            raise InterruptedError
        written.append(len(changes))
        return await original(rollup, changes, revision, notes)

    with monkeypatch.context() as patch:
        patch.setattr(UsageRollup, "_write_some", write_once)
        with pytest.raises(InterruptedError):
            await UsageRollup(ledger.database, ledger.clock).run()
    assert written == [2]
    assert len(await fetch(ledger, "SELECT model FROM usage_buckets")) == 2
    assert await UsageRollup(ledger.database, ledger.clock).run() == 1
    assert len(await require_agreement(ledger)) == 5


async def test_runs_of_several_processes_count_everything_once(ledger: VerifiedLedger) -> None:
    for _ in range(3):
        await asyncio.gather(*(ledger.spend(Usage(3, 4)) for _ in range(4)))
        ledger.clock.step(20 * 60)
    runs = [UsageRollup(ledger.database, ledger.clock).run() for _ in range(3)]
    assert sum(await asyncio.gather(*runs)) >= 3
    await require_agreement(ledger)


async def test_a_run_soon_after_another_ones_leaves_the_work_for_later(ledger: VerifiedLedger) -> None:
    rollup = UsageRollup(ledger.database, ledger.clock)
    await ledger.spend(Usage(3, 4))
    assert await rollup.run(unless_since_ms=10_000) == 1
    await ledger.spend(Usage(3, 4))
    ledger.clock.step(9)
    assert await rollup.run(unless_since_ms=10_000) == 0
    ledger.clock.step(1)
    assert await rollup.run(unless_since_ms=10_000) == 1
    await require_agreement(ledger)


async def test_cached_calls_stay_counted_when_their_charges_are_deleted(ledger: VerifiedLedger) -> None:
    """Also if the sums are computed anew for another charge of the same 15 minutes."""
    rollup = UsageRollup(ledger.database, ledger.clock)
    store = make_store(ledger.url, ledger.clock)
    charge = await ledger.spend(Usage(3, 4))
    await batch(store, BookFree(new_id("chg"), ledger.caller, TERMS, lease_ms=0))
    assert await rollup.has_counted_until(ledger.clock.ms)
    assert not await rollup.has_counted_until(ledger.clock.ms + 1)
    await rollup.run()
    assert await rollup.has_counted_until(ledger.clock.ms + 1)
    await ledger.execute("DELETE FROM charges WHERE basis = 'cache'")
    await ledger.refund(charge)
    await rollup.run()
    [row] = await fetch(ledger, "SELECT * FROM usage_buckets")
    assert (row.calls, row.cached_calls, row.refunded_tokens) == (1, 1, row.cost_tokens)
    [of_day] = await fetch(ledger, "SELECT * FROM usage_days WHERE dimension = 'surface'")
    assert (of_day.cached_calls, of_day.day_ms % DAY_MS) == (1, 0)
    await store.close()


async def test_the_sums_of_charges_tell_keys_groups_and_tags_apart(ledger: VerifiedLedger) -> None:
    first, _ = await ledger.spend(Usage(1, 2)), await ledger.spend(Usage(3, 4))
    tags = '\'{"run": "a=b", "cost-centre": "42"}\''
    await ledger.execute(
        f"UPDATE charges SET key_id = 'key_1', group_id = 7, tags = {tags} WHERE id = '{first}'",
    )
    assert await UsageRollup(ledger.database, ledger.clock).run() == 1
    buckets = await require_agreement(ledger)
    assert {cell.group_id for _, _, cell in buckets} == {0, 7}
    days = await fetch(ledger, "SELECT value, cost_tokens FROM usage_days WHERE dimension = 'tag' ORDER BY value")
    assert [tuple(row) for row in days] == [("", 11), ("cost-centre=42", 5), ("run=a=b", 5)]


async def test_sums_outlive_the_archive_of_their_charges(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archive adds up what is noted before it removes the charges."""
    async with open_archived_ledger(database_url, tmp_path, monkeypatch) as archived:
        await archived.spend(2)
        archived.go_to("2024-02-01")
        await archived.archive(202312)
        assert await fetch(archived.ledger, "SELECT id FROM charges") == []
        assert await fetch(archived.ledger, "SELECT id FROM usage_changes") == []
        [row] = await fetch(archived.ledger, "SELECT calls, cost_tokens FROM usage_buckets")
        assert (row.calls, row.cost_tokens) == (2, 22)


async def test_a_run_ends_although_calls_go_on(ledger: VerifiedLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is noted after a run has begun is left to the next one."""
    rollup = UsageRollup(ledger.database, ledger.clock)
    compute, computed = UsageRollup._compute, list[Any]()

    async def compute_while_a_call_is_made(self: UsageRollup, bucket: Any) -> None:
        computed.append(bucket)
        assert len(computed) < 20, "the run has no end"
        await ledger.ledger.book_free(ledger.caller, make_terms())
        await compute(self, bucket)

    await ledger.ledger.book_free(ledger.caller, make_terms())
    monkeypatch.setattr(UsageRollup, "_compute", compute_while_a_call_is_made)
    assert await rollup.run() == 1
    assert len(computed) == 1
    monkeypatch.undo()
    await rollup.run()
    await require_agreement(ledger)


async def test_a_busy_bucket_is_computed_once_for_many_notes(
    ledger: VerifiedLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollup_module, "NOTES_PER_STATEMENT", 3)
    rollup = UsageRollup(ledger.database, ledger.clock)
    for _ in range(10):
        await ledger.ledger.book_free(ledger.caller, make_terms())
    assert await rollup.run() == 1
    assert await fetch(ledger, "SELECT * FROM usage_changes") == []
    await require_agreement(ledger)
