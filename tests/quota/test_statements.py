"""Statements agree with the entries to the token, whatever happens before and after a month is closed."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text
from verified_ledger import TERMS, VerifiedLedger, open_verified

from support.deadlines import TEST_DEADLINE_S
from support.factories import FakeClock, tenant_quota
from tollkeeper.chat import Usage
from tollkeeper.errors import DatabaseUnavailable, LedgerConflict, NotFound
from tollkeeper.quota import time_sorted_ids
from tollkeeper.quota.partition_months import month_after, month_before
from tollkeeper.quota.reservation import Reservation
from tollkeeper.quota.rules.limit_changes import Grant, RemoveQuota
from tollkeeper.quota.rules.models import Basis, Unit
from tollkeeper.quota.rules.windows import Period
from tollkeeper.telemetry.task_runs import Task, TaskRuns
from tollkeeper.usage import statement_tags
from tollkeeper.usage.buckets import MEASURES
from tollkeeper.usage.rollup import UsageRollup
from tollkeeper.usage.statement_closing import StatementClosing
from tollkeeper.usage.statement_parts import Statement
from tollkeeper.usage.statement_rendering import COLUMNS, statement_page, statement_record, statement_rows
from tollkeeper.usage.statements import TenantStatements
from tollkeeper.usage.task import UsageTask

DAY_S = 86_400
FIRST = 202311
LARGE = 10**12


@pytest.fixture
async def ledger(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[VerifiedLedger]:
    """The times of ids are those of the ledger's clock. The tenant begins in November 2023, in Nepal, on the 15th."""
    clock = FakeClock()
    monkeypatch.setattr(time_sorted_ids, "time", SimpleNamespace(time_ns=lambda: clock.ms * 1_000_000))
    async with open_verified(database_url, clock) as made:
        await made.execute("UPDATE tenants SET time_zone = 'Asia/Kathmandu', reset_day = 15")
        yield made


async def stored(ledger: VerifiedLedger) -> dict[int, dict[str, Any]]:
    async with ledger.database.session() as session:
        found = await (await session.connection()).execute(text("SELECT month, document FROM usage_statements"))
        return {month: json.loads(document) for month, document in found}


async def read(ledger: VerifiedLedger, month: int) -> Statement:
    async with ledger.database.session() as session:
        return await (await TenantStatements.open(session, ledger.caller.tenant_id)).read(month, ledger.clock.ms)


async def close_months(ledger: VerifiedLedger) -> int:
    await UsageRollup(ledger.database, ledger.clock).run()
    return await StatementClosing(ledger.database, ledger.clock).run()


class Story:
    """Random calls, grants and refunds of a tenant over months, some of which are closed meanwhile."""

    def __init__(self, ledger: VerifiedLedger, seed: int) -> None:
        self.ledger = ledger
        self.chance = random.Random(seed)
        self.keys = tenant_quota(ledger.caller, Period.TOTAL), tenant_quota(ledger.caller, Period.TOTAL, Unit.MICRO_USD)
        self.settled: list[str] = []
        self.lost: list[Reservation] = []
        self.closed: dict[int, dict[str, Any]] = {}

    async def tell(self, steps: int) -> None:
        await self.call()
        for key in self.keys:
            await self.ledger.set_limit(key, LARGE)
        rarely = [self.expire, self.settle_late, self.refund, self.grant, self.close]
        for _ in range(steps):
            await self.chance.choice([*rarely, self.call, self.call, self.call, self.wait, self.wait])()
        self.ledger.clock.step(70 * DAY_S)
        await self.close()

    async def call(self) -> None:
        terms = TERMS._replace(model=self.chance.choice(["small", "large"]))
        async with self.ledger.ledger.reservation(self.ledger.caller, terms) as reservation:
            basis = self.chance.choice([Basis.PROVIDER, Basis.UNKNOWN])
            reservation.set_usage(self.usage(), basis)
        self.settled.append(reservation.charge_id)

    async def expire(self) -> None:
        self.lost.append(await self.ledger.expire())

    async def settle_late(self) -> None:
        if self.lost:
            await self.ledger.settle_late(self.lost.pop(0), self.usage())

    async def refund(self) -> None:
        if self.settled:
            with suppress(LedgerConflict):  # it cost nothing
                await self.ledger.refund(self.settled.pop(self.chance.randrange(len(self.settled))))

    async def grant(self) -> None:
        key, amount = self.chance.choice(self.keys), self.chance.randrange(1, 10_000)
        await self.ledger.ledger.administer((Grant(key, amount),), actor="test", reason="more")

    async def wait(self) -> None:
        self.ledger.clock.step(self.chance.choice([60, 3_600, 9 * DAY_S]))

    async def close(self) -> None:
        await close_months(self.ledger)
        documents = await stored(self.ledger)
        assert {month: documents[month] for month in self.closed} == self.closed
        self.closed.update(documents)

    def usage(self) -> Usage:
        return Usage(self.chance.randrange(20), self.chance.randrange(300))


async def sums(ledger: VerifiedLedger, query: str) -> list[int]:
    async with ledger.database.session() as session:
        return list(map(int, (await (await session.connection()).execute(text(query))).one()))


@pytest.mark.parametrize("seed", [1, 2])
async def test_statements_agree_with_the_entries_and_closed_ones_never_change(
    ledger: VerifiedLedger, seed: int
) -> None:
    story = Story(ledger, seed)
    await story.tell(50)
    statements = [Statement.from_document(document) for _, document in sorted(story.closed.items())]
    assert len(statements) >= 3
    for before, after in pairwise(statements):
        assert (after.month, after.starts_ms) == (month_after(before.month), before.ends_ms)
    for unit, name in ((Unit.TOKENS, "tenant-total"), (Unit.MICRO_USD, "tenant-total-usd")):
        balances = [balance for one in statements for balance in one.balances if balance.quota == name]
        assert len(balances) == len(statements)
        for balance in balances:
            left = balance.opening + balance.granted - balance.spent - balance.corrections
            assert balance.closing == left
        assert [one.opening for one in balances[1:]] == [one.closing for one in balances[:-1]]
        granted, spent = await sums(
            ledger,
            "SELECT sum(entries.granted), sum(entries.settled) FROM entries JOIN windows ON windows.id = window_id"
            " JOIN quotas ON quotas.id = quota_id WHERE quotas.user_id IS NULL AND period = 'total'"
            f" AND unit = '{unit}'",
        )
        assert sum(balance.spent + balance.corrections for balance in balances) == spent
        assert balances[-1].closing == granted - spent
    lines = [line for one in statements for part in (one.spent, *one.corrections.values()) for line in part.values()]
    of_charges = await sums(
        ledger, "SELECT sum(cost_tokens), sum(CASE WHEN refunded THEN cost_tokens ELSE 0 END) FROM charges"
    )
    places = MEASURES.index("cost_tokens"), MEASURES.index("refunded_tokens")
    assert [sum(line[place] for line in lines) for place in places] == of_charges


def balances_of(statement: Statement) -> list[tuple[int, ...]]:
    """Of the quota without an end: what was left, granted, spent and corrected."""
    found = [one for one in statement.balances if one.quota == "tenant-total"]
    return [(one.opening, one.granted, one.spent, one.corrections) for one in found]


@pytest.mark.parametrize("most", [1_000, 2])
async def test_a_statement_by_tag_agrees_with_the_entries(
    ledger: VerifiedLedger, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Over whole days and parts of days; beyond the number of lines, the other values of a tag are one."""
    monkeypatch.setattr(statement_tags, "MAX_LINES", most)
    chance, caller, tenant_id = random.Random(7), ledger.caller, ledger.caller.tenant_id
    for name in ("run", "team"):
        await ledger.execute(
            "INSERT INTO tag_names (tenant_id, name, any_value, is_required, max_values, known_values, version,"
            f" created_ms) VALUES ({tenant_id}, '{name}', true, false, 9, 0, 0, 0)"
        )
    for _ in range(40):
        tags = chance.choice([(), ("run=a",), ("run=b", "team=x"), ("run=c", "team=y"), ("team=x",)])
        ledger.caller = replace(caller, tags=tags)
        await ledger.spend(Usage(chance.randrange(20), chance.randrange(300)))
        ledger.clock.step(chance.choice([60, 3_600, DAY_S]))
    ledger.clock.step(70 * DAY_S)
    assert await close_months(ledger) >= 2
    documents = [document for _, document in sorted((await stored(ledger)).items())]
    places = MEASURES.index("calls"), MEASURES.index("cost_tokens"), MEASURES.index("cost_micro_usd")
    found = Counter[tuple[str, str | None, int]]()
    for one in map(Statement.from_document, documents):
        assert len([key for key in one.tags if key.value is not None]) <= most
        assert one.as_document()["tags"] == [[*key, *line] for key, line in one.tags.items()]
        for key, line in one.tags.items():
            found.update({(key.name, key.value if most > 2 else None, place): line[place] for place in places})
    for tag in ("run=a", "run=b", "run=c", "team=x", "team=y") if most > 2 else ("run=", "team="):
        name, value = tag.split("=")
        wanted = f'"{name}":"{value}"' if value else f'"{name}":'
        spent = await sums(
            ledger,
            "SELECT count(DISTINCT charges.id), coalesce(sum(CASE unit WHEN 'tokens' THEN settled END), 0),"
            " coalesce(sum(CASE unit WHEN 'micro_usd' THEN settled END), 0) FROM charges JOIN entries"
            " ON source_id = charges.id JOIN (SELECT windows.id AS window_id, unit FROM windows JOIN quotas"
            " ON quotas.id = quota_id WHERE quotas.user_id IS NOT NULL) AS own ON own.window_id = entries.window_id"
            f" WHERE tags LIKE '%{wanted}%'",
        )
        assert [found[name, value or None, place] for place in places] == spent


async def test_a_quota_that_replaces_a_removed_one_has_a_balance_of_its_own(ledger: VerifiedLedger) -> None:
    """What the removed one had left, and what its statements say, is not the new one's."""
    key = tenant_quota(ledger.caller, Period.TOTAL)
    await ledger.set_limit(key, 1_000)
    await ledger.spend(Usage(10, 10))
    ledger.clock.step(33 * DAY_S)
    assert await close_months(ledger) == 1
    await ledger.spend(Usage(10, 20))
    await ledger.ledger.administer((RemoveQuota(key),), actor="test", reason="it begins anew")
    ledger.clock.step(60)
    assert balances_of(await read(ledger, month_after(FIRST))) == []
    ledger.clock.step(3_600)
    await ledger.set_limit(key, 5_000)
    await ledger.spend(Usage(10, 30))
    ledger.clock.step(66 * DAY_S)
    assert await close_months(ledger) == 2
    months = [Statement.from_document(document) for _, document in sorted((await stored(ledger)).items())]
    assert list(map(balances_of, months)) == [[(0, 1_000, 30, 0)], [(0, 5_000, 60, 0)], [(4_940, 0, 0, 0)]]


async def test_a_month_stays_open_for_two_days_and_while_one_of_its_calls_is_open(ledger: VerifiedLedger) -> None:
    await ledger.spend(Usage(1, 2))
    await UsageRollup(ledger.database, ledger.clock).run()
    first = await read(ledger, FIRST)
    assert (first.closed_ms, first.total[0]) == (None, 1)
    for month in (month_before(FIRST), month_after(FIRST)):
        with pytest.raises(NotFound):
            await read(ledger, month)
    ledger.clock.ms = first.ends_ms - 1_000
    job = await ledger.ledger.reserve_for_job(ledger.caller, TERMS, None, job_id="job_1", lease_ms=90 * DAY_S * 1000)
    ledger.clock.ms = first.ends_ms + 2 * DAY_S * 1000 - 1
    assert await close_months(ledger) == 0
    ledger.clock.ms += 1
    assert await close_months(ledger) == 0
    await ledger.ledger.withdraw(job.charge_id, ledger.caller.tenant_id, "cancelled")
    assert await StatementClosing(ledger.database, ledger.clock).run() == 0, "the end of the call is not added up yet"
    assert await close_months(ledger) == 1
    assert await close_months(ledger) == 0
    assert (await read(ledger, FIRST)).closed_ms == ledger.clock.ms


async def test_a_changed_calendar_leaves_no_gap_between_months(ledger: VerifiedLedger) -> None:
    await ledger.spend(Usage(1, 2))
    ledger.clock.step(33 * DAY_S)
    assert await close_months(ledger) == 1
    await ledger.execute("UPDATE tenants SET time_zone = 'UTC', reset_day = 1")
    closed, following = await read(ledger, FIRST), await read(ledger, month_after(FIRST))
    assert (following.starts_ms, following.time_zone) == (closed.ends_ms, "UTC")
    assert following.ends_ms == 1_704_067_200_000  # 1 January 2024


def test_a_statement_is_shown_as_rows_and_as_a_page_without_what_others_could_inject() -> None:
    line = {"group_id": 7, "group_name": "=sum(A1)", "model": "<script>", "provider": "echo"}
    document = {
        "tenant_id": 1, "month": 202611, "starts_ms": 0, "ends_ms": 1, "time_zone": "UTC", "closed_ms": None,
        "balances": [
            {"quota": "tenant-total", "unit": "tokens", "opening": 5, "granted": 1, "spent": 2, "corrections": -3,
             "closing": 7}
        ],
        "spent": [[7, "<script>", "echo", *range(12)]],
        "corrections": {"202610": [[7, "<script>", "echo", *range(0, -12, -1)]]},
        "tags": [["run", "@a", *range(12)], ["run", None, *range(12)]],
    }  # fmt: skip
    statement = Statement.from_document(document)
    assert statement.as_document() == document
    record = statement_record(statement, "a & b", {7: "=sum(A1)"})
    assert record["spent"][0].items() >= line.items()
    header, *rows = [dict(zip(COLUMNS, row, strict=True)) for row in statement_rows(record)]
    assert [*header] == [*COLUMNS]
    assert [row["section"] for row in rows] == ["balance", "spent", "total", "tag", "tag", "correction"]
    assert [(row["tag"], row["tag_value"], row["cost"]) for row in rows[3:5]] == [("run", "'@a", "6"), ("run", "", "6")]
    assert (rows[1]["group"], rows[5]["cost"], rows[5]["month"]) == ("'=sum(A1)", "-6", "2026-10")
    page = statement_page(record)
    assert "<script>" not in page
    assert "a &amp; b" in page


async def test_the_task_of_a_server_adds_up_and_closes_months_despite_errors(
    ledger: VerifiedLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledger.spend(Usage(1, 2))
    ledger.clock.step(35 * DAY_S)
    errors: list[Exception] = [DatabaseUnavailable(), ZeroDivisionError()]
    original, runs = UsageRollup.run, TaskRuns()

    async def run(rollup: UsageRollup, *, unless_since_ms: int = 0) -> int:
        if errors:
            raise errors.pop()
        return await original(rollup, unless_since_ms=unless_since_ms)

    monkeypatch.setattr(UsageRollup, "run", run)
    rollup, closing = UsageRollup(ledger.database, ledger.clock), StatementClosing(ledger.database, ledger.clock)
    task = UsageTask(rollup, closing, interval_s=0.01, on_run=runs.note)
    task.start()
    async with asyncio.timeout(TEST_DEADLINE_S):
        while not (await stored(ledger) and runs.succeeded[Task.USAGE]):
            await asyncio.sleep(0.01)
    await task.stop()
    assert [*await stored(ledger)] == [FIRST]
    assert (runs.failed[Task.USAGE], errors) == (2, [])
