"""The verifier finds each kind of corrupt row, and reports no problem in a ledger that is in use."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

import pytest
from sqlalchemy import text

from support.factories import (
    FakeClock,
    make_principal,
    make_store,
    make_terms,
    set_limit,
    tenant_quota,
    time_sorted_id,
    user_quota,
)
from tollkeeper.chat import Price, Usage
from tollkeeper.database.engine import Database
from tollkeeper.errors import ProviderRejected
from tollkeeper.principal import Principal
from tollkeeper.quota.audit.problems import Fault
from tollkeeper.quota.audit.report import MAX_PROBLEMS, AuditReport
from tollkeeper.quota.audit.verify import verify
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.windows import Period

pytestmark = pytest.mark.stock_postgres

PRICE = Price(2_000_000, 1_000_000, 4_000_000)


@dataclass
class History:
    """A ledger in which a charge has ended in each of the ways there are; one is left open."""

    database: Database
    now_ms: int
    settled: str
    adjusted: str
    refunded: str
    unknown: str
    overrun: str
    left_open: str

    async def execute(self, *statements: str) -> None:
        async with self.database.session() as session:
            connection = await session.connection()
            for statement in statements:
                await connection.execute(text(statement.format(**vars(self))))

    async def verify(self, chunk: int = 7) -> AuditReport:
        return await verify(self.database, now_ms=self.now_ms, chunk=chunk)


async def spend(ledger: Ledger, caller: Principal, usage: Usage | None) -> str:
    """One call; without a usage its outcome stays unknown."""
    async with ledger.reservation(caller, make_terms(price=PRICE)) as reservation:
        if usage is not None:
            reservation.set_usage(usage)
    return reservation.charge_id


@pytest.fixture
async def history(database_url: str) -> AsyncIterator[History]:
    made = await make_history(database_url)
    yield made
    await made.database.close()


@pytest.fixture
async def sqlite_history(sqlite_url: str) -> AsyncIterator[History]:
    made = await make_history(sqlite_url)
    yield made
    await made.database.close()


async def make_history(database_url: str) -> History:
    clock, database = FakeClock(), Database(database_url)
    ledger, other = (Ledger(make_store(database_url, clock), lease_seconds=60) for _ in range(2))
    ledger.start()
    other.start()
    caller = await make_principal(database)
    await set_limit(ledger, user_quota(caller), 1_000)
    await set_limit(ledger, tenant_quota(caller), 5_000)
    await set_limit(ledger, user_quota(caller, Period.TOTAL, Unit.MICRO_USD), 50_000)
    settled = await spend(ledger, caller, Usage(5, 20))
    unknown = await spend(ledger, caller, None)
    with pytest.raises(ProviderRejected):
        async with ledger.reservation(caller, make_terms(price=PRICE)):
            raise ProviderRejected
    lost = ledger.reservation(caller, make_terms(price=PRICE))
    await lost.__aenter__()
    clock.step(61)
    assert await other.sweep() == 1
    lost.set_usage(Usage(9, 30))
    await lost.__aexit__(None, None, None)
    refunded = await spend(ledger, caller, Usage(7, 30))
    await ledger.refund(refunded, caller.tenant_id, actor="test", reason="it was nonsense")
    overrun = await spend(ledger, caller, Usage(10, 200))
    open_ = ledger.reservation(caller, make_terms(price=PRICE))
    await open_.__aenter__()
    await ledger.stop()
    await other.stop()
    return History(database, clock.ms, settled, lost.charge_id, refunded, unknown, overrun, open_.charge_id)


@pytest.mark.parametrize("chunk", [1, 2, 5, 13, 5_000])
async def test_a_correct_ledger_passes_with_every_chunk_size(history: History, chunk: int) -> None:
    report = await history.verify(chunk)
    assert report.problems == []
    assert report.clean
    assert (report.windows, report.charges, report.overruns, report.open_holds) == (3, 7, 1, 1)
    assert report.entries == 3 * 2 + 3 * (7 + 6 + 1 + 1)


async def test_a_lease_counts_as_over_only_after_its_end(history: History) -> None:
    assert (await history.verify()).lapsed == 0
    history.now_ms += 60_001
    assert (await history.verify()).lapsed == 1


FIRST = "(SELECT min(id) FROM windows)"
LAST_SEQUENCE = f"(SELECT sequence FROM windows WHERE id = {FIRST})"
OF_FIRST = f"window_id = {FIRST}"
FORGE = (
    "INSERT INTO entries"
    " (tenant_id, window_id, sequence, month, source_id, kind, granted, settled, pending, forgiven, at_ms)"
    " SELECT tenant_id, id, sequence + 1, (SELECT max(month) FROM charges), {source}, {kind}, 0, 0, {pending}, 0, 0"
    f" FROM windows WHERE id = {FIRST}"
)
COUNT_FORGED = f"UPDATE windows SET sequence = sequence + 1, pending = pending + {{pending}} WHERE id = {FIRST}"

CORRUPTIONS: dict[str, tuple[Fault, str, tuple[str, ...]]] = {
    **{
        f"a window's {name} is edited": (
            Fault.BALANCE,
            f"{name} is",
            (f"UPDATE windows SET {name} = {name} + 1 WHERE id = {FIRST}",),
        )
        for name in ("granted", "settled", "pending", "forgiven")
    },
    "a window's sequence is edited": (
        Fault.SEQUENCE,
        "its row has",
        (f"UPDATE windows SET sequence = sequence + 1 WHERE id = {FIRST}",),
    ),
    "the last entry is deleted": (
        Fault.SEQUENCE,
        "its row has",
        (f"DELETE FROM entries WHERE {OF_FIRST} AND sequence = {LAST_SEQUENCE}",),
    ),
    "an entry in the middle is deleted": (
        Fault.SEQUENCE,
        "entry 4 is missing, the next is 5",
        (f"DELETE FROM entries WHERE {OF_FIRST} AND sequence = 4",),
    ),
    "an entry is put before the first": (
        Fault.SEQUENCE,
        "entry 1 is missing, the next is 0",
        (
            "INSERT INTO entries (tenant_id, window_id, sequence, month, source_id, kind, at_ms)"
            f" SELECT tenant_id, id, 0, 202601, 'forged', 'grant', 0 FROM windows WHERE id = {FIRST}",
        ),
    ),
    "a window has no entries": (
        Fault.SEQUENCE,
        "it has no entries",
        (
            "INSERT INTO windows (tenant_id, quota_id, starts_ms, ends_ms, granted)"
            " SELECT tenant_id, quota_id, -1, 0, 0 FROM windows WHERE id = 1",
        ),
    ),
    "an entry is in another month": (
        Fault.ENTRY,
        "is in month 200001, which is not its source's",
        (f"UPDATE entries SET month = 200001 WHERE {OF_FIRST} AND sequence = 1",),
    ),
    "an entry is another tenant's": (
        Fault.ENTRY,
        "there are entries, but no such window",
        (f"UPDATE entries SET tenant_id = 99 WHERE {OF_FIRST} AND sequence = 4",),
    ),
    "a charge is in another month": (
        Fault.CHARGE,
        "it is in month 200001, which is not its id's",
        ("UPDATE charges SET month = 200001 WHERE id = '{settled}'",),
    ),
    "a call was admitted above the limit": (
        Fault.OVER_ADMITTED,
        "above granted 99",
        (
            f"UPDATE entries SET granted = 99 WHERE {OF_FIRST} AND kind = 'limit'",
            f"UPDATE windows SET granted = 99 WHERE id = {FIRST}",
        ),
    ),
    "a hold was forged above the limit": (
        Fault.OVER_ADMITTED,
        "(forged) held 5000",
        (
            FORGE.format(source="'forged'", kind="'reserve'", pending=5000),
            COUNT_FORGED.format(pending=5000),
        ),
    ),
    "an entry takes more off pending than there is": (
        Fault.NEGATIVE,
        "brought pending to -999",
        (f"UPDATE entries SET pending = -1099 WHERE {OF_FIRST} AND source_id = '{{settled}}' AND kind = 'settle'",),
    ),
    "a settle moves the grant": (
        Fault.ENTRY,
        "moves granted",
        (
            f"UPDATE entries SET granted = 7 WHERE {OF_FIRST} AND source_id = '{{settled}}' AND kind = 'settle'",
            f"UPDATE windows SET granted = granted + 7 WHERE id = {FIRST}",
        ),
    ),
    "an entry is of a kind that there is not": (
        Fault.ENTRY,
        "is of an unknown kind",
        (f"UPDATE entries SET kind = 'gift' WHERE {OF_FIRST} AND kind = 'limit'",),
    ),
    "a charge is deleted": (Fault.ENTRY, "belongs to no charge", ("DELETE FROM charges WHERE id = '{settled}'",)),
    "a charge has no entries": (Fault.CHARGE, "it has no entries", ("UPDATE charges SET id = 'chg_0' WHERE overrun",)),
    "a charge is opened again": (
        Fault.CHARGE,
        "the charge is open, but its hold has ended (settle)",
        ("UPDATE charges SET state = 'dispatched', closed_ms = NULL, closed_by = NULL WHERE id = '{settled}'",),
    ),
    "an open charge is marked as settled": (
        Fault.CHARGE,
        "the charge is closed, but its hold has 0 ends; 100 are pending",
        ("UPDATE charges SET state = 'settled', closed_ms = 1, closed_by = 'settle' WHERE id = '{left_open}'",),
    ),
    "a charge ended twice": (
        Fault.CHARGE,
        "its hold has 2 ends",
        (FORGE.format(source="'{settled}'", kind="'release'", pending=0), COUNT_FORGED.format(pending=0)),
    ),
    "a charge was never reserved": (
        Fault.CHARGE,
        "it has 0 entries of kind reserve, the charge has 1",
        (f"UPDATE entries SET kind = 'grant' WHERE {OF_FIRST} AND source_id = '{{settled}}' AND kind = 'reserve'",),
    ),
    "a charge ended by another verb than it says": (
        Fault.CHARGE,
        "its hold ended by settle, the charge has release",
        ("UPDATE charges SET closed_by = 'release' WHERE id = '{settled}'",),
    ),
    "a charge's state contradicts its end": (
        Fault.CHARGE,
        "it is reserved, but closed_ms or closed_by contradicts that",
        ("UPDATE charges SET state = 'reserved' WHERE id = '{settled}'",),
    ),
    "a charge's cost is edited": (
        Fault.CHARGE,
        "its entries settle 25, the charge has 26",
        ("UPDATE charges SET cost_tokens = cost_tokens + 1 WHERE id = '{settled}'",),
    ),
    "a charge's cost in money is edited": (
        Fault.CHARGE,
        "its entries settle 90, the charge has 91",
        ("UPDATE charges SET cost_micro_usd = cost_micro_usd + 1 WHERE id = '{settled}'",),
    ),
    "a released charge costs something": (
        Fault.CHARGE,
        "it is released, but costs 25 tokens",
        ("UPDATE charges SET state = 'released' WHERE id = '{settled}'",),
    ),
    "a hold is edited": (
        Fault.CHARGE,
        "its reserve is of 100, the charge has 101",
        ("UPDATE charges SET held_tokens = held_tokens + 1 WHERE id = '{settled}'",),
    ),
    "what was forgiven is edited": (
        Fault.CHARGE,
        "its entries forgive 90, the charge has 0",
        ("UPDATE charges SET forgiven_tokens = 0 WHERE id = '{unknown}'",),
    ),
    "a refund is hidden": (
        Fault.CHARGE,
        "it has 1 entries of kind refund, the charge has 0",
        ("UPDATE charges SET refunded = false WHERE id = '{refunded}'",),
    ),
    "a refund gave back more than was paid": (
        Fault.CHARGE,
        "38 were refunded, but its entries had settled 37",
        (
            f"UPDATE entries SET settled = settled - 1 WHERE {OF_FIRST} AND kind = 'refund'",
            f"UPDATE windows SET settled = settled - 1 WHERE id = {FIRST}",
        ),
    ),
    "the late truth is hidden": (
        Fault.CHARGE,
        "it has 1 entries of kind adjust, the charge has 0",
        ("UPDATE charges SET adjusted = false WHERE id = '{adjusted}'",),
    ),
    "the late truth is edited": (
        Fault.CHARGE,
        "its entries settle 38, the charge has 39",
        (
            f"UPDATE entries SET settled = settled - 1 WHERE {OF_FIRST} AND kind = 'adjust'",
            f"UPDATE windows SET settled = settled - 1 WHERE id = {FIRST}",
        ),
    ),
    "an overrun is hidden": (
        Fault.CHARGE,
        "is not flagged as an overrun",
        ("UPDATE charges SET overrun = false WHERE id = '{overrun}'",),
    ),
    "a charge was paid from someone else's window": (
        Fault.CHARGE,
        "the window is another user's or tenant's",
        (
            "INSERT INTO users (tenant_id, email, password_hash, role, created_at)"
            " SELECT tenant_id, 'other@example.com', '-', role, created_at FROM users WHERE id = 1",
            "UPDATE charges SET user_id = 2 WHERE id = '{settled}'",
        ),
    ),
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
async def test_each_corruption_is_found(sqlite_history: History, corruption: str) -> None:
    fault, what, statements = CORRUPTIONS[corruption]
    await sqlite_history.execute(*statements)
    report = await sqlite_history.verify()
    assert not report.clean
    assert any(problem.fault is fault and what in problem.what for problem in report.problems), report.problems


async def test_corruptions_of_every_sort_are_found_together_on_either_database(history: History) -> None:
    together = (
        "the last entry is deleted",
        "a window's settled is edited",
        "a call was admitted above the limit",
        "an entry takes more off pending than there is",
        "a settle moves the grant",
        "a charge's cost in money is edited",
    )
    for corruption in together:
        await history.execute(*CORRUPTIONS[corruption][2])
    await history.execute("UPDATE charges SET created_ms = created_ms + 86400000 WHERE id = '{settled}'")
    end_ms = 2**61
    await history.execute(
        *(
            "INSERT INTO windows (tenant_id, quota_id, starts_ms, ends_ms, granted)"
            f" SELECT tenant_id, id, {end_ms + 2 * one}, {end_ms + 2 * one + 1}, 0 FROM quotas WHERE period = 'day'"
            for one in range(2)
        ),
        f"UPDATE windows SET ends_ms = {end_ms + 3} WHERE starts_ms = {end_ms}",
    )
    assert {problem.fault for problem in (await history.verify()).problems} == set(Fault)


async def test_an_entry_of_no_window_is_found(sqlite_url: str) -> None:
    """PostgreSQL's foreign keys refuse such a row; SQLite's are a matter of the connection that writes."""
    database = Database(sqlite_url)
    async with database.session() as session:
        connection = await session.connection()
        await connection.execute(text("PRAGMA foreign_keys=OFF"))
        await connection.execute(
            text(
                "INSERT INTO entries (tenant_id, window_id, sequence, month, source_id, kind, at_ms)"
                f" VALUES (1, 99, 1, 202706, '{time_sorted_id('win', 'x')}', 'open', 0)"
            )
        )
    report = await verify(database, now_ms=0)
    await database.close()
    assert [str(problem) for problem in report.problems] == ["window 99: there are entries, but no such window"]


async def test_problems_beyond_the_most_that_are_kept_are_counted(history: History) -> None:
    await history.execute(
        *(
            "INSERT INTO windows (tenant_id, quota_id, starts_ms, ends_ms, granted)"
            f" SELECT tenant_id, id, {-starts - 1}, {-starts}, 0 FROM quotas WHERE id = 1"
            for starts in range(150)
        ),
    )
    report = await history.verify()
    assert report.problem_count == 150
    assert len(report.problems) == MAX_PROBLEMS


async def test_a_ledger_in_use_has_no_problems(database_url: str, database: Database) -> None:
    """Chunks end in the midst of windows that calls are being written to; none of it is mistaken for a fault."""
    ledger = Ledger(make_store(database_url), lease_seconds=60)
    ledger.start()
    callers = [await make_principal(database) for _ in range(3)]
    for caller in callers:
        await set_limit(ledger, user_quota(caller), 1_000_000)
        await set_limit(ledger, tenant_quota(caller), 1_000_000)
    chance = random.Random(7)

    async def call(caller: Principal) -> None:
        with suppress(ProviderRejected):
            async with ledger.reservation(caller, make_terms()) as reservation:
                await asyncio.sleep(0.01)
                if chance.random() < 0.2:
                    raise ProviderRejected
                reservation.set_usage(Usage(0, chance.randrange(200)))

    await asyncio.gather(*(call(caller) for caller in callers * 60))
    working = True

    async def work(caller: Principal) -> None:
        while working:
            await call(caller)

    workers = [asyncio.create_task(work(caller)) for caller in callers]
    reports = [await verify(database, now_ms=0, chunk=chunk) for chunk in (60, 90, 240) for _ in range(2)]
    working = False
    await asyncio.gather(*workers)
    await ledger.stop()
    assert [problem for report in reports for problem in report.problems] == []
    assert reports[0].entries < reports[-1].entries
    assert (await verify(database, now_ms=0)).open_holds == 0
