"""The journal while the database is unavailable, slow, or loses the response to a COMMIT."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from faulty_store import Fault
from journal_operations import block_first_batch, cancel_before_commit, cancel_in_commit, open_journal, reserve, settle
from ledger_environment import LedgerEnvironment, open_ledger_environment

from support.deadlines import TEST_DEADLINE_S
from support.factories import charge_id, operation_id, user_quota
from tollkeeper.errors import LedgerUnavailable, NotFound
from tollkeeper.quota import journal as journal_module
from tollkeeper.quota import operation_queue, outage
from tollkeeper.quota.journal import Journal
from tollkeeper.quota.rules.limit_changes import SetLimit
from tollkeeper.quota.rules.operations import Administer, Release
from tollkeeper.quota.rules.page import Page, ReadSet
from tollkeeper.telemetry.correlation import correlation_id


@pytest.fixture
async def env(sqlite_url: str) -> AsyncIterator[LedgerEnvironment]:
    async with open_ledger_environment(sqlite_url, limit=100_000) as made:
        yield made


@pytest.fixture
async def journal(env: LedgerEnvironment, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Journal]:
    async with open_journal(env, monkeypatch) as made:
        yield made


class LogLine(NamedTuple):
    """A log line, with the correlation id it was logged under."""

    event: str
    reason: str
    correlation_id: str


@pytest.fixture
def log_lines(monkeypatch: pytest.MonkeyPatch) -> list[LogLine]:
    """What the journal logs of outages."""
    lines: list[LogLine] = []

    def record(event: str, reason: str = "", **_: object) -> None:
        lines.append(LogLine(event, reason, correlation_id.get()))

    monkeypatch.setattr(outage, "log", SimpleNamespace(warning=record, info=record, error=lambda *_, **__: None))
    return lines


async def test_an_outage_only_delays_settles_and_releases(env: LedgerEnvironment, journal: Journal) -> None:
    await asyncio.gather(journal.submit(reserve(env, "a")), journal.submit(reserve(env, "b")))
    env.store.down = True
    settled, released = journal.submit(settle(env, "a")), journal.submit(Release(charge_id("b"), env.caller.tenant_id))
    while not journal.failing:
        await asyncio.sleep(0.001)
    assert not await journal.drain(0.03)
    env.store.down = False
    assert (await settled).cost_tokens == 50
    assert (await released).cost_tokens == 0
    assert not journal.failing


async def test_a_reserve_that_waits_too_long_is_refused_and_withdrawn(env: LedgerEnvironment, journal: Journal) -> None:
    env.store.down = True
    with pytest.raises(LedgerUnavailable):
        await journal.submit(reserve(env, "late"), wait_s=0.02)
    env.store.down = False
    await journal.drain(5)
    assert await env.charges() == {}


async def test_a_batch_that_writes_nothing_does_not_end_an_outage(env: LedgerEnvironment, journal: Journal) -> None:
    """A full disk still lets it read."""
    env.store.full = True
    with pytest.raises(LedgerUnavailable):
        await journal.submit(reserve(env, "late"), wait_s=0.02)
    with pytest.raises(NotFound):
        await journal.submit(settle(env, "unknown"))
    assert journal.failing
    env.store.full = False
    with pytest.raises(NotFound):
        await journal.submit(settle(env, "unknown"))
    assert await env.charges() == {}
    while journal.failing:
        await asyncio.sleep(0.001)


async def test_a_reserve_that_is_withdrawn_while_its_transaction_begins_is_not_written(
    env: LedgerEnvironment, journal: Journal
) -> None:
    env.store.before_batch.clear()
    late = journal.submit(reserve(env, "late"), wait_s=0.02)
    waits = journal.submit(reserve(env, "waits"))
    with pytest.raises(LedgerUnavailable):
        await late
    env.store.before_batch.set()
    await waits
    await journal.drain(5)
    assert list(await env.charges()) == [charge_id("waits")]


async def test_a_reserve_that_waits_too_long_in_its_commit_is_refused_and_released(
    env: LedgerEnvironment, journal: Journal
) -> None:
    env.store.after_commit.clear()
    with pytest.raises(LedgerUnavailable):
        await journal.submit(reserve(env, "late"), wait_s=0.02)
    env.store.after_commit.set()
    await journal.drain(5)
    assert (await env.only_charge()).state == "released"


async def test_a_timeout_while_nothing_commits_is_an_outage(env: LedgerEnvironment, journal: Journal) -> None:
    """The database has not reported an error yet: its own timeouts may be longer than those of callers."""
    env.store.before_batch.clear()
    with pytest.raises(LedgerUnavailable):
        await journal.submit(reserve(env, "late"), wait_s=0.02)
    assert journal.failing
    env.store.before_batch.set()
    assert (await journal.submit(reserve(env, "next")))[:2] == (charge_id("next"), 90)
    assert not journal.failing


async def test_a_timeout_while_other_batches_commit_is_no_outage(
    env: LedgerEnvironment, journal: Journal, log_lines: list[LogLine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operation_queue, "MAX_BATCH", 1)
    run = env.store.run

    async def slowly(read_set: ReadSet, decide: Callable[[Page], None]) -> None:
        await run(read_set, decide)
        await asyncio.sleep(0.05)

    monkeypatch.setattr(env.store, "run", slowly)
    others = [journal.submit(reserve(env, f"c{number}")) for number in range(60)]
    with pytest.raises(LedgerUnavailable):
        await journal.submit(reserve(env, "late"), wait_s=2)
    assert log_lines == []
    await asyncio.gather(*others)


async def test_a_stalled_process_does_not_report_an_outage(
    env: LedgerEnvironment, journal: Journal, log_lines: list[LogLine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "STALL_CHECKS", 10)
    first = await block_first_batch(env, journal)
    late = journal.submit(reserve(env, "late"), wait_s=0.1)
    time.sleep(0.3)
    env.store.before_batch.set()
    with pytest.raises(LedgerUnavailable):
        await late
    await first
    assert (log_lines, journal.failing) == ([], False)


async def test_an_outage_is_logged_once_per_reason_without_a_correlation_id(
    env: LedgerEnvironment, journal: Journal, log_lines: list[LogLine]
) -> None:
    env.store.before_batch.clear()
    correlation_id.set("somebody")
    with pytest.raises(LedgerUnavailable):
        await journal.submit(reserve(env, "late"), wait_s=0.02)
    must_commit = journal.submit(Release(charge_id("never there"), env.caller.tenant_id))
    env.store.down = True
    env.store.before_batch.set()
    async with asyncio.timeout(TEST_DEADLINE_S):
        while len(log_lines) < 2:
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)
    assert log_lines == [
        LogLine("ledger.unavailable", "nothing was committed in time", ""),
        LogLine("ledger.unavailable", "out of order", ""),
    ]
    env.store.down = False
    await must_commit
    while journal.failing:  # a release of nothing writes nothing
        await asyncio.sleep(0.001)
    assert log_lines[2:] == [LogLine("ledger.recovered", "", "")]


async def test_a_failing_settle_returns_none_to_its_caller_and_commits_later(
    env: LedgerEnvironment, journal: Journal
) -> None:
    await journal.submit(reserve(env, "bad"))
    env.store.poison = {charge_id("bad")}
    assert await journal.submit(settle(env, "bad"), wait_s=0.2) is None
    env.store.poison = set()
    assert await journal.drain(5)
    assert (await env.only_charge()).cost_tokens == 50


async def test_a_late_settle_returns_none_and_commits_later(env: LedgerEnvironment, journal: Journal) -> None:
    await journal.submit(reserve(env, "a"))
    env.store.down = True
    landed = asyncio.Event()
    assert await journal.submit(settle(env, "a"), wait_s=0.02, on_commit=landed.set) is None
    assert not landed.is_set()
    env.store.down = False
    await asyncio.wait_for(landed.wait(), TEST_DEADLINE_S)
    assert (await env.only_charge()).cost_tokens == 50


@pytest.mark.parametrize("fault", list(Fault))
async def test_each_operation_happens_once_despite_a_failed_commit(
    env: LedgerEnvironment, journal: Journal, fault: Fault
) -> None:
    env.store.faults.append(fault)
    assert (await journal.submit(reserve(env, "a")))[:2] == (charge_id("a"), 90)
    env.store.faults.append(fault)
    assert (await journal.submit(settle(env, "a"))).cost_tokens == 50
    env.store.faults.append(fault)
    act = Administer(operation_id("adm1"), (SetLimit(user_quota(env.caller), 500),), "test", "test")
    assert (await journal.submit(act))[0].limit == 500
    window = await env.window()
    assert (window.granted, window.settled, window.pending) == (500, 50, 0)


async def test_a_caller_cancelled_before_a_lost_commit_is_repeated_holds_nothing(
    env: LedgerEnvironment, journal: Journal
) -> None:
    env.store.faults.extend([Fault.ANSWER_LOST, Fault.REFUSED])
    await cancel_in_commit(env, journal)
    assert (await env.only_charge()).state == "released"


async def test_a_caller_cancelled_before_a_commit_that_did_not_happen_holds_nothing(
    env: LedgerEnvironment, journal: Journal
) -> None:
    env.store.faults.extend([Fault.NEVER_COMMITTED, Fault.REFUSED])
    await cancel_before_commit(env, journal)
    assert await env.charges() == {}
