"""A report has exactly the charges of its time, whatever the time zone, and wherever it begins and ends in a day."""

import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text
from verified_ledger import TERMS, VerifiedLedger, open_verified

from support.factories import FakeClock, make_principal, set_limit, user_quota
from tollkeeper.chat import Usage
from tollkeeper.errors import InvalidRequest
from tollkeeper.identity.tag_models import TagName
from tollkeeper.quota import time_sorted_ids
from tollkeeper.quota.rules.windows import Calendar
from tollkeeper.quota.time_sorted_ids import USAGE_BUCKET_MS, time_of
from tollkeeper.quota.time_zones import load_time_zone
from tollkeeper.tags import decode_tags
from tollkeeper.tenant_scope import ALL_TENANTS, TenantScope
from tollkeeper.usage.buckets import MEASURES
from tollkeeper.usage.periods import ReportPeriod, report_period
from tollkeeper.usage.reports import ALL_CALLS, GroupBy, OfCalls, read_report
from tollkeeper.usage.rollup import UsageRollup

CHARGES = 40
DAYS = 5
WEST = timezone(timedelta(hours=-14))
COST = MEASURES.index("cost_tokens")
ZONES = ("UTC", "Asia/Kathmandu", "America/St_Johns")


@pytest.fixture
async def ledger(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[VerifiedLedger]:
    clock = FakeClock()
    monkeypatch.setattr(time_sorted_ids, "time", SimpleNamespace(time_ns=lambda: clock.ms * 1_000_000))
    async with open_verified(database_url, clock) as made:
        yield made


async def charges_of(ledger: VerifiedLedger) -> list[Any]:
    async with ledger.database.session() as session:
        return list((await (await session.connection()).execute(text("SELECT * FROM charges"))).all())


def value_of(charge: Any, group_by: GroupBy, zone: str) -> str:
    local = datetime.fromtimestamp(time_of(charge.id) / 1000, UTC).astimezone(load_time_zone(zone))
    values: dict[GroupBy, str] = {
        GroupBy.HOUR: local.replace(minute=0, second=0, microsecond=0).isoformat(),
        GroupBy.DAY: local.date().isoformat(),
        GroupBy.USER: str(charge.user_id),
        GroupBy.TENANT: str(charge.tenant_id),
        GroupBy.MODEL: charge.model,
        GroupBy.PROVIDER: charge.provider,
        GroupBy.SURFACE: charge.surface,
        GroupBy.TAG: "".join(decode_tags(charge.tags)),
    }
    return values.get(group_by, "")


async def test_a_report_has_the_charges_of_its_time(ledger: VerifiedLedger) -> None:
    chance = random.Random(3)
    start = ledger.clock.ms
    other = await make_principal(ledger.database, ledger.caller.tenant_id)
    foreign = await make_principal(ledger.database)
    for principal in (other, foreign):
        await set_limit(ledger.ledger, user_quota(principal), 1_000_000)
    async with ledger.database.session() as session:
        tenant_id = ledger.caller.tenant_id
        session.add(TagName(tenant_id=tenant_id, name="run", any_value=True, max_values=2, created_ms=0))
    callers = [ledger.caller, *(replace(ledger.caller, tags=(f"run={value}",)) for value in "aA"), other, foreign]
    for _ in range(CHARGES):
        ledger.clock.step(chance.randrange(2 * DAYS * 86_400 // CHARGES))
        terms = TERMS._replace(model=chance.choice("abc"), surface=chance.choice(["chat", "query"]))
        async with ledger.ledger.reservation(chance.choice(callers), terms) as reservation:
            reservation.set_usage(Usage(chance.randrange(10), chance.randrange(90)))
    assert await UsageRollup(ledger.database, ledger.clock).run() > CHARGES / 2
    charges = await charges_of(ledger)
    of_tenant = TenantScope(ledger.caller.tenant_id)
    scopes = [(ALL_TENANTS, ALL_CALLS), (of_tenant, ALL_CALLS), (of_tenant, OfCalls(other.user_id))]
    scopes += [(ALL_TENANTS, OfCalls(None, "run=a")), (of_tenant, OfCalls(ledger.caller.user_id, "run"))]
    async with ledger.database.session() as session:
        for group_by in GroupBy:
            for scope, of_calls in scopes:
                first = start + chance.randrange(DAYS * 86_400_000)
                first -= first % USAGE_BUCKET_MS
                after = first + USAGE_BUCKET_MS * chance.randrange(1, 96 * DAYS)
                zone = chance.choice(ZONES)
                expected: Counter[str] = Counter()
                for charge in charges:
                    is_visible = scope.tenant_id in (None, charge.tenant_id)
                    is_visible = is_visible and of_calls.user_id in (None, charge.user_id)
                    tag = "".join(decode_tags(charge.tags))
                    if (
                        is_visible
                        and of_calls.tag in (None, tag, tag.partition("=")[0])
                        and first <= time_of(charge.id) < after
                    ):
                        expected[value_of(charge, group_by, zone)] += charge.cost_tokens
                period = ReportPeriod(first, after, zone)
                report = await read_report(session, scope, period, group_by, of_calls)
                found = {line.value: line.sums[COST] for line in report.lines}
                assert found == {value: cost for value, cost in expected.items() if value in found}
                assert sum(found.values()) == sum(expected.values())
                assert report.total[COST] == sum(expected.values())
                if group_by.is_time:
                    assert [line.value for line in report.lines] == sorted(found)


async def test_a_report_says_when_it_is_not_complete(ledger: VerifiedLedger) -> None:
    scope, other = TenantScope(ledger.caller.tenant_id), TenantScope(ledger.caller.tenant_id + 1)
    now = ledger.clock.ms - ledger.clock.ms % USAGE_BUCKET_MS
    period = ReportPeriod(now, now + USAGE_BUCKET_MS, "UTC")
    await ledger.spend(Usage(1, 2))
    for is_complete in (False, True):
        async with ledger.database.session() as session:
            report = await read_report(session, scope, period, GroupBy.MODEL)
            assert (report.is_complete, len(report.lines)) == (is_complete, int(is_complete))
            assert (await read_report(session, other, period, GroupBy.MODEL)).is_complete
        await UsageRollup(ledger.database, ledger.clock).run()


def test_dates_are_those_of_the_calendar_and_the_default_is_its_month() -> None:
    now_ms = int(datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp() * 1000)
    calendar = Calendar("Asia/Kathmandu", 15)
    month = report_period(None, None, now_ms, calendar)
    assert [month.day_of(month.from_ms), month.day_of(month.to_ms)] == ["2026-11-15", "2026-12-15"]
    day = report_period(date(2026, 11, 1), date(2026, 11, 2), now_ms, calendar)
    assert day.hour_of(day.from_ms) == "2026-11-01T00:00:00+05:45"
    assert (day.to_ms - day.from_ms, day.from_ms % 3_600_000) == (86_400_000, 900_000)
    ends = (date(1, 1, 1), date(1, 2, 1)), (date(9999, 12, 1), datetime(9999, 12, 31, 23, 45, tzinfo=WEST))
    for wrong in ((date(2026, 11, 2), date(2026, 11, 1)), (date(2024, 1, 1), date(2026, 1, 1)), *ends):
        with pytest.raises(InvalidRequest):
            report_period(*wrong, now_ms, calendar)
    with pytest.raises(InvalidRequest, match="quarters"):
        report_period(datetime(2026, 11, 1, 0, 7, tzinfo=UTC), None, now_ms)
    with pytest.raises(InvalidRequest, match="by hour is about at most 100 days"):
        report_period(date(2026, 1, 1), date(2026, 11, 1), now_ms, by_hour=True)
