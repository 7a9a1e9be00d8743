"""The verifier finds charges that hold nothing on a quota that applied when they were reserved."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from verified_ledger import VerifiedLedger, open_verified

from support.factories import make_principal, make_store, set_limit, tenant_quota, user_quota
from tollkeeper.chat import Usage
from tollkeeper.quota.audit.applied_quotas import YOUNG_MS
from tollkeeper.quota.audit.problems import Fault
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.page import QuotaKey, Subject
from tollkeeper.quota.rules.subjects import SubjectKind
from tollkeeper.quota.rules.windows import Period

pytestmark = [pytest.mark.stock_postgres, pytest.mark.exhaustive_on_postgres]


@pytest.fixture
async def verified(database_url: str) -> AsyncIterator[VerifiedLedger]:
    async with open_verified(database_url) as made:
        yield made


@pytest.fixture
async def sqlite_verified(sqlite_url: str) -> AsyncIterator[VerifiedLedger]:
    async with open_verified(sqlite_url) as made:
        yield made


def set_age(quota: str, age_ms: int) -> str:
    """The first window of the quota that was created last was opened so long before the charge."""
    return (
        f"UPDATE entries SET at_ms = (SELECT max(created_ms) FROM charges) - {age_ms} WHERE kind = 'open' AND window_id"
        f" IN (SELECT windows.id FROM windows JOIN quotas ON quotas.id = quota_id WHERE period = '{quota}')"
    )


@pytest.mark.parametrize("owner", ["user", "tenant"])
async def test_a_charge_without_a_hold_on_a_quota_that_applied_is_found(verified: VerifiedLedger, owner: str) -> None:
    charge = await verified.spend(Usage(5, 20))
    make_quota = user_quota if owner == "user" else tenant_quota
    await verified.set_limit(make_quota(verified.caller, Period.HOUR))
    assert (await verified.verify()).problems == []
    await verified.execute(set_age("hour", YOUNG_MS + 1))
    [problem] = (await verified.verify()).problems
    assert (problem.fault, problem.where) == (Fault.SKIPPED_QUOTA, f"charge {charge}")
    assert f"({owner}, tokens, hour)" in problem.what


async def test_a_charge_that_skipped_the_quota_of_its_tag_is_found(sqlite_verified: VerifiedLedger) -> None:
    """Two charges, of which one has the tag, whose own quota replaces a template; and a charge that holds on the quota
    of a tag that it does not have.
    """
    tenant_id, caller = sqlite_verified.caller.tenant_id, sqlite_verified.caller
    await sqlite_verified.execute(
        "INSERT INTO tag_names (tenant_id, name, any_value, is_required, max_values, known_values, version, created_ms)"
        f" VALUES ({tenant_id}, 'run', true, false, 9, 0, 0, 0)"
    )
    await sqlite_verified.spend(Usage(5, 20))
    sqlite_verified.caller = replace(caller, tags=("run=a",))
    charge = await sqlite_verified.spend(Usage(5, 20))
    quota = QuotaKey(Subject(tenant_id, None, SubjectKind.TAG, "run=a"), Unit.TOKENS, Period.HOUR)
    template = QuotaKey(Subject(tenant_id, None, SubjectKind.EACH_TAG, "run"), Unit.TOKENS, Period.HOUR)
    for key, owner in ((template, "each_tag"), (quota, "tag")):
        await sqlite_verified.set_limit(key)
        await sqlite_verified.execute(set_age("hour", YOUNG_MS + 1))
        [problem] = (await sqlite_verified.verify()).problems
        assert (problem.fault, problem.where) == (Fault.SKIPPED_QUOTA, f"charge {charge}")
        assert f"({owner}, tokens, hour)" in problem.what
    await sqlite_verified.execute(f"UPDATE charges SET tags = NULL WHERE id = '{charge}'")
    assert (await sqlite_verified.verify()).clean
    held = await sqlite_verified.spend(Usage(5, 20))
    await sqlite_verified.execute(f"UPDATE charges SET tags = '{{\"run\":\"b\"}}' WHERE id = '{held}'")
    assert any("the window is of another tag" in problem.what for problem in (await sqlite_verified.verify()).problems)


async def test_a_quota_that_was_created_just_before_a_charge_leaves_it_undecided(
    sqlite_verified: VerifiedLedger,
) -> None:
    """A reserve in another process may have begun before the quota was committed."""
    await sqlite_verified.spend(Usage(5, 20))
    await sqlite_verified.set_limit(user_quota(sqlite_verified.caller, Period.HOUR))
    assert (await sqlite_verified.verify()).undecided == 0
    await sqlite_verified.execute(set_age("hour", YOUNG_MS))
    report = await sqlite_verified.verify()
    assert report.problems == []
    assert report.undecided == 1


async def test_a_quota_of_another_user_or_tenant_does_not_apply(verified: VerifiedLedger) -> None:
    colleague = await make_principal(verified.database, verified.caller.tenant_id)
    stranger = await make_principal(verified.database)
    for key in (user_quota(colleague, Period.HOUR), tenant_quota(stranger, Period.HOUR)):
        await verified.set_limit(key)
    await verified.spend(Usage(5, 20))
    await verified.execute(set_age("hour", 10 * YOUNG_MS))
    assert (await verified.verify()).problems == []


async def test_a_hold_in_the_window_of_another_day_is_found(sqlite_verified: VerifiedLedger) -> None:
    charge = await sqlite_verified.spend(Usage(5, 20))
    await sqlite_verified.execute("UPDATE charges SET created_ms = created_ms + 86400000")
    problems = (await sqlite_verified.verify()).problems
    assert {(problem.fault, problem.where) for problem in problems} == {(Fault.SKIPPED_QUOTA, f"charge {charge}")}
    assert any("(user, tokens, day)" in problem.what for problem in problems)


async def test_a_quota_without_a_window_has_never_applied(sqlite_verified: VerifiedLedger) -> None:
    await sqlite_verified.spend(Usage(5, 20))
    caller = sqlite_verified.caller
    await sqlite_verified.execute(
        "INSERT INTO quotas (tenant_id, user_id, kind, unit, period, granted)"
        f" VALUES ({caller.tenant_id}, {caller.user_id}, 'user', 'tokens', 'minute', 5)"
    )
    assert (await sqlite_verified.verify()).clean


async def test_quotas_that_are_created_while_calls_run_look_right(verified: VerifiedLedger) -> None:
    """Another process creates them, while this one's reserves are under way."""
    other = Ledger(make_store(verified.url, verified.clock), lease_seconds=60)
    other.start()
    working = True

    async def work() -> None:
        while working:
            await verified.spend(Usage(1, 1))

    workers = [asyncio.create_task(work()) for _ in range(8)]
    for period in (Period.MINUTE, Period.HOUR, Period.MONTH):
        await set_limit(other, user_quota(verified.caller, period), 10_000_000)
        await verified.execute("UPDATE users SET token_version = token_version")
        verified.clock.step(0.5)
        assert (await verified.verify(100)).problems == []
    working = False
    await asyncio.gather(*workers)
    await other.stop()
    assert (await verified.verify(100)).problems == []


async def test_a_template_applies_to_its_value_unless_a_quota_of_ones_own_replaces_it(
    sqlite_verified: VerifiedLedger,
) -> None:
    caller = sqlite_verified.caller
    key = QuotaKey(Subject(caller.tenant_id, None, SubjectKind.EACH_USER), Unit.TOKENS, Period.TOTAL)
    await sqlite_verified.set_limit(key)
    await sqlite_verified.spend(Usage(5, 20))
    await sqlite_verified.execute(set_age("total", 10 * YOUNG_MS))
    assert (await sqlite_verified.verify()).problems == []
    await sqlite_verified.execute("UPDATE windows SET value = '0' WHERE value <> ''")
    problems = (await sqlite_verified.verify()).problems
    assert [problem.fault for problem in problems] == [Fault.CHARGE, Fault.SKIPPED_QUOTA]
    await sqlite_verified.execute(f"UPDATE windows SET value = '{caller.user_id}' WHERE value <> ''")
    await sqlite_verified.set_limit(user_quota(caller, Period.TOTAL))
    replaced = await sqlite_verified.verify()
    assert (replaced.problems, replaced.undecided) == ([], 0)
