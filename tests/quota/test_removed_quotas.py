"""Quotas that are removed: what the audit knows of them, what repeats, and what statements and alerts say."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from verified_ledger import VerifiedLedger, open_verified

from support.factories import tenant_quota, user_quota
from tollkeeper.chat import Usage
from tollkeeper.errors import NotFound, QuotaExceeded
from tollkeeper.quota.audit.applied_quotas import YOUNG_MS
from tollkeeper.quota.audit.problems import Fault
from tollkeeper.quota.ledger import Ledger, new_operation_id
from tollkeeper.quota.rules.limit_changes import LimitChange, RemoveQuota, SetLimit
from tollkeeper.quota.rules.page import QuotaKey
from tollkeeper.quota.rules.windows import Period

FIRST_TIME = "(SELECT max(created_ms) FROM charges)"


@pytest.fixture
async def verified(database_url: str) -> AsyncIterator[VerifiedLedger]:
    async with open_verified(database_url) as made:
        yield made


async def change(ledger: Ledger, change: LimitChange, operation_id: str | None = None) -> int:
    """Make a change, and return how many balances it answers."""
    balances = await ledger.administer((change,), actor="admin", reason="test", operation_id=operation_id)
    return len(balances)


async def move(verified: VerifiedLedger, key: QuotaKey, *, opened: str, removed: str) -> None:
    """Have the tenant's quota opened and removed at other times."""
    windows = "(SELECT w.id FROM windows w JOIN quotas q ON q.id = w.quota_id WHERE q.removed_ms IS NOT NULL"
    windows += f" AND q.kind = 'tenant' AND q.period = '{key.period}')"
    await verified.execute(f"UPDATE entries SET at_ms = {opened} WHERE kind = 'open' AND window_id IN {windows}")
    await verified.execute(f"UPDATE entries SET at_ms = {removed} WHERE kind = 'remove' AND window_id IN {windows}")
    await verified.execute(f"UPDATE quotas SET removed_ms = {removed} WHERE kind = 'tenant' AND removed_ms IS NOT NULL")


async def test_the_audit_knows_until_when_a_quota_applied(verified: VerifiedLedger) -> None:
    """A charge of before its removal must hold on it, one of after it must not; and a removal is an entry."""
    hour = tenant_quota(verified.caller, Period.HOUR)
    charge = await verified.spend(Usage(5, 20))
    await verified.set_limit(hour)
    await change(verified.ledger, RemoveQuota(hour))
    assert (await verified.verify()).problems == []
    long_ago = f"{FIRST_TIME} - {3 * YOUNG_MS}"
    await move(verified, hour, opened=long_ago, removed=f"{FIRST_TIME} - {2 * YOUNG_MS}")
    assert (await verified.verify()).problems == []
    await move(verified, hour, opened=long_ago, removed=f"{FIRST_TIME} + 1")
    report = await verified.verify()
    assert (report.problems, report.undecided) == ([], 1)
    await move(verified, hour, opened=long_ago, removed=f"{FIRST_TIME} + {2 * YOUNG_MS}")
    [problem] = (await verified.verify()).problems
    assert (problem.fault, problem.where) == (Fault.SKIPPED_QUOTA, f"charge {charge}")
    await move(verified, hour, opened=long_ago, removed=f"{FIRST_TIME} - {2 * YOUNG_MS}")
    await verified.execute("UPDATE entries SET kind = 'limit' WHERE kind = 'remove'")
    [problem] = (await verified.verify()).problems
    assert problem.fault == Fault.SKIPPED_QUOTA


async def test_a_removal_acts_once_and_a_change_of_before_it_does_not_repeat(verified: VerifiedLedger) -> None:
    own = user_quota(verified.caller, Period.WEEK)
    setting, removal = new_operation_id(), new_operation_id()
    assert await change(verified.ledger, SetLimit(own, 1_000), setting) == 1
    assert await change(verified.ledger, RemoveQuota(own), removal) == 0
    assert await change(verified.ledger, RemoveQuota(own), removal) == 0
    with pytest.raises(NotFound, match="was removed after"):
        await change(verified.ledger, SetLimit(own, 1_000), setting)
    with pytest.raises(NotFound):
        await change(verified.ledger, RemoveQuota(own))
    await verified.spend(Usage(5, 20))
    assert await change(verified.ledger, SetLimit(own, 160)) == 1
    assert await change(verified.ledger, RemoveQuota(own), removal) == 0
    await verified.spend(Usage(5, 20))
    with pytest.raises(QuotaExceeded):
        await verified.spend(Usage(5, 20))
    assert (await verified.verify()).problems == []


async def test_removals_beside_calls_leave_a_clean_ledger(verified: VerifiedLedger) -> None:
    """Limits that are set and removed again while calls are made, by two ledgers."""
    hour = tenant_quota(verified.caller, Period.HOUR)

    async def flip() -> None:
        for _ in range(15):
            await change(verified.ledger, SetLimit(hour, 10**6))
            await change(verified.ledger, RemoveQuota(hour))

    async def call() -> None:
        for _ in range(15):
            await verified.spend(Usage(5, 20))

    await asyncio.gather(flip(), call(), call(), call())
    assert (await verified.verify()).problems == []
