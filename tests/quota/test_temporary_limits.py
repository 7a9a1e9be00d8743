"""Grants with an expiry and overrides: when they begin and end, and what is shown of them before it is written."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from ledger_environment import LedgerEnvironment, open_ledger_environment

from support.factories import make_terms, user_quota
from tollkeeper.errors import InvalidRequest, NotFound, QuotaExceeded
from tollkeeper.quota import queries
from tollkeeper.quota.audit.verify import verify
from tollkeeper.quota.rules.limit_changes import Grant, LimitChange, Override, SetLimit
from tollkeeper.quota.rules.page import QuotaKey, Subject
from tollkeeper.quota.rules.temporary import MAX_TEMPORARY
from tollkeeper.quota.rules.windows import DAY_MS, HOUR_MS, Period


@pytest.fixture
async def env(database_url: str) -> AsyncIterator[LedgerEnvironment]:
    async with open_ledger_environment(database_url, limit=100) as opened:
        yield opened


def day_of(env: LedgerEnvironment) -> QuotaKey:
    return user_quota(env.caller, Period.DAY)


async def change(env: LedgerEnvironment, *changes: LimitChange) -> int:
    """The limit of the first quota after the changes."""
    return (await env.ledger.administer(changes, actor="a", reason="r"))[0].limit


async def shown(env: LedgerEnvironment) -> int:
    """The limit that the user is shown, who makes no call."""
    subject = Subject(env.caller.tenant_id, env.caller.user_id)
    async with env.database.session() as session:
        [balance] = await queries.balances_of(session, [subject], env.clock.ms)
    return balance.limit


async def limit_of_a_call(env: LedgerEnvironment) -> int:
    """The limit that a call finds."""
    async with env.ledger.reservation(env.caller, make_terms(1, 1)) as call:
        [balance] = call.hold.balances
        await call.update_checkpoint()
    return balance.limit


async def kinds(env: LedgerEnvironment) -> list[tuple[str, int]]:
    """What has changed the limit of the first window."""
    entries = (await env.snapshot()).entries[(await env.window()).id]
    return [(entry.kind, entry.granted) for entry in entries if entry.granted]


async def test_a_grant_is_taken_back_at_its_expiry_and_use_above_the_limit_only_refuses(env: LedgerEnvironment) -> None:
    until = env.clock.ms + HOUR_MS
    assert await change(env, Grant(day_of(env), 50, until_ms=until)) == 150
    async with env.ledger.reservation(env.caller, make_terms(60, 60)) as call:
        env.clock.ms = until - 1
        assert await shown(env) == 150
        env.clock.ms = until
        assert await shown(env) == 100
        with pytest.raises(QuotaExceeded) as refused:
            async with env.ledger.reservation(env.caller, make_terms(100, 1)):
                raise AssertionError("it is admitted")
        assert refused.value.limit == 100
        assert call.hold.balances[0].reserved == 120
    assert await kinds(env) == [("limit", 100), ("grant", 50), ("lapse", -50)]
    report = await verify(env.database, now_ms=env.clock.ms)
    assert report.clean


async def test_a_grant_until_after_its_window_ends_with_it(env: LedgerEnvironment) -> None:
    assert await change(env, Grant(day_of(env), 50, until_ms=env.clock.ms + 3 * DAY_MS)) == 150
    env.clock.ms += DAY_MS
    assert await shown(env) == await limit_of_a_call(env) == 100
    snapshot = await env.snapshot()
    assert [window.due_ms for window in snapshot.windows.values()] == [None, None]


async def test_an_override_begins_opens_later_windows_and_ends_by_itself(env: LedgerEnvironment) -> None:
    day, start = day_of(env), env.clock.ms + HOUR_MS
    assert await change(env, Override(day, 400, start + 2 * DAY_MS, start)) == 100
    assert await change(env, Grant(day, 7)) == 107
    env.clock.ms = start
    assert await shown(env) == 407
    assert await limit_of_a_call(env) == 407
    assert await change(env, SetLimit(day, 90)) == 407, "the limit counts again after the override"
    env.clock.ms = start + DAY_MS
    assert await shown(env) == await limit_of_a_call(env) == 400
    env.clock.ms = start + 2 * DAY_MS - 1
    assert await shown(env) == await limit_of_a_call(env) == 400
    env.clock.ms += 1
    assert await shown(env) == await limit_of_a_call(env) == 90
    env.clock.ms += DAY_MS
    assert await shown(env) == await limit_of_a_call(env) == 90
    assert (await verify(env.database, now_ms=env.clock.ms)).clean


async def test_the_newest_of_several_overrides_counts(env: LedgerEnvironment) -> None:
    day, now = day_of(env), env.clock.ms
    await change(env, Override(day, 400, now + 3 * HOUR_MS))
    assert await change(env, Override(day, 20, now + HOUR_MS)) == 20
    env.clock.ms = now + HOUR_MS
    assert await limit_of_a_call(env) == 400
    env.clock.ms = now + 3 * HOUR_MS
    assert await limit_of_a_call(env) == 100


@pytest.mark.parametrize(
    "make",
    [
        lambda key, now: Grant(key, 5, until_ms=now),
        lambda key, now: Override(key, 5, now),
        lambda key, now: Override(key, 5, now + 5, now + 5),
        lambda key, now: Override(key, -1, now + 5),
        lambda key, now: Grant(key, -1),
    ],
)
async def test_what_cannot_be_is_refused(env: LedgerEnvironment, make: Any) -> None:
    with pytest.raises(InvalidRequest):
        await change(env, make(day_of(env), env.clock.ms))
    assert await kinds(env) == [("limit", 100)]
    with pytest.raises(NotFound):
        await change(env, Override(user_quota(env.caller, Period.WEEK), 5, env.clock.ms + 5))


@pytest.mark.exhaustive_on_postgres
async def test_the_number_of_overrides_is_bounded(env: LedgerEnvironment) -> None:
    day, now = day_of(env), env.clock.ms
    for number in range(MAX_TEMPORARY):
        await change(env, Override(day, number, now + HOUR_MS))
    with pytest.raises(InvalidRequest):
        await change(env, Grant(day, 1, until_ms=now + HOUR_MS))
    env.clock.ms += HOUR_MS
    assert await change(env, Grant(day, 1, until_ms=now + 2 * HOUR_MS)) == 101


async def test_a_change_for_a_time_that_is_repeated_is_made_once(env: LedgerEnvironment) -> None:
    made = Override(day_of(env), 5, env.clock.ms + HOUR_MS), Grant(user_quota(env.caller, Period.DAY), 5)
    for _ in range(2):
        balances = await env.ledger.administer(made[:1], actor="a", reason="r", operation_id=OPERATION)
        assert [balance.limit for balance in balances] == [5]
    assert await kinds(env) == [("limit", 100), ("override", -95)]


async def test_what_is_unused_rolls_over_up_to_the_cap_and_grants_do_not(env: LedgerEnvironment) -> None:
    day = day_of(env)
    await change(env, SetLimit(day, 100, rollover_cap=150))
    await change(env, Grant(day, 1_000))
    assert await limit_of_a_call(env) == 1_100  # it costs its input: 1
    env.clock.ms += DAY_MS
    assert await shown(env) == 199
    assert await limit_of_a_call(env) == 199
    env.clock.ms += DAY_MS
    assert await shown(env) == await limit_of_a_call(env) == 250
    env.clock.ms += 40 * DAY_MS
    assert await shown(env) == await limit_of_a_call(env) == 250
    await change(env, SetLimit(day, 30, rollover_cap=0))
    env.clock.ms += DAY_MS
    assert await shown(env) == await limit_of_a_call(env) == 30
    assert (await verify(env.database, now_ms=env.clock.ms)).clean
    with pytest.raises(InvalidRequest):
        await change(env, SetLimit(user_quota(env.caller, Period.TOTAL), 5, rollover_cap=5))


OPERATION = "adm_018df000000000000000000000000000"
