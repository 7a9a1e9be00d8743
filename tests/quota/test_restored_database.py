"""A PostgreSQL that comes back older than it was, after a failover or a restore. What was remembered is false."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeAlias

import asyncpg
import pytest
from ledger_environment import LedgerEnvironment, open_ledger_environment

from support.deadlines import TEST_DEADLINE_S
from support.factories import make_principal, make_store, make_terms, set_limit, user_quota
from tollkeeper.chat import Usage
from tollkeeper.quota.audit.verify import verify
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.windows import Period

pytestmark = pytest.mark.stock_postgres

Other: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

RESTORE = "DELETE FROM idempotency_keys; DELETE FROM entries; DELETE FROM charges; DELETE FROM windows"
"""The state from before the first call of the quotas' windows."""


@pytest.fixture
async def env(any_postgres_url: str) -> AsyncIterator[LedgerEnvironment]:
    async with open_ledger_environment(any_postgres_url) as made, asyncio.timeout(TEST_DEADLINE_S):
        yield made


@pytest.fixture
async def other(any_postgres_url: str) -> AsyncIterator[Other]:
    connection = await asyncpg.connect(any_postgres_url)
    yield connection
    await connection.close()


async def assert_verified(env: LedgerEnvironment) -> None:
    report = await verify(env.database, now_ms=env.clock.now_ms())
    assert report.clean, report.problems


async def test_a_remembered_window_that_is_another_users_now_is_not_charged(
    env: LedgerEnvironment, other: Other, any_postgres_url: str
) -> None:
    neighbour = await make_principal(env.database)
    await set_limit(env.ledger, user_quota(neighbour, Period.DAY), 1_000)
    async with env.ledger.reservation(env.caller, make_terms()) as reservation:
        reservation.set_usage(Usage(5, 5))
    own = (await env.window()).id

    await other.execute(RESTORE)
    await other.execute(f"SELECT setval(pg_get_serial_sequence('windows', 'id'), {own}, false)")
    elsewhere = Ledger(make_store(any_postgres_url, env.clock), lease_seconds=60)
    elsewhere.start()
    async with elsewhere.reservation(neighbour, make_terms()) as reservation:
        reservation.set_usage(Usage(1, 1))
    await elsewhere.stop()
    owner = "SELECT user_id FROM windows JOIN quotas ON quotas.id = quota_id WHERE windows.id = $1"
    assert await other.fetchval(owner, own) == neighbour.user_id

    async with env.ledger.reservation(env.caller, make_terms()) as reservation:
        reservation.set_usage(Usage(2, 2))
    assert (await env.window()).settled == 4
    await assert_verified(env)


async def test_a_remembered_window_that_is_gone_is_created_again(env: LedgerEnvironment, other: Other) -> None:
    async with env.ledger.reservation(env.caller, make_terms()) as reservation:
        reservation.set_usage(Usage(5, 5))
    await other.execute(RESTORE)
    async with env.ledger.reservation(env.caller, make_terms()) as reservation:
        reservation.set_usage(Usage(2, 2))
    assert (await env.window()).settled == 4
    await assert_verified(env)


@pytest.mark.parametrize(
    ("basis", "usage", "cost"),
    [
        (Basis.PROVIDER, Usage(5, 7), 12),
        (Basis.PROVIDER, Usage(500, 700), 1_200),
        (Basis.COUNTED, Usage(500, 700), 100),
    ],
    ids=["as reported", "reported above the hold", "counted, at most the hold"],
)
async def test_a_call_whose_charge_is_gone_at_its_settle_is_booked_anew(
    env: LedgerEnvironment, other: Other, basis: Basis, usage: Usage, cost: int
) -> None:
    async with env.ledger.reservation(env.caller, make_terms(10, 90)) as reservation:
        await other.execute(RESTORE)
        reservation.set_usage(usage, basis)
    assert reservation.closed_charge.cost_tokens == cost
    charge = await env.only_charge()
    assert (charge.id, charge.cost_tokens) == (reservation.charge_id, cost)
    assert await other.fetchval("SELECT error FROM charges") == "recovered"
    assert (await env.window()).settled == cost
    await assert_verified(env)


async def test_a_call_whose_user_is_gone_at_its_settle_still_ends(env: LedgerEnvironment, other: Other) -> None:
    async with env.ledger.reservation(env.caller, make_terms(10, 90)) as reservation:
        await other.execute(f"{RESTORE}; DELETE FROM quotas; DELETE FROM users WHERE id = {env.caller.user_id}")
        reservation.set_usage(Usage(5, 7))
    assert reservation.closed_charge.cost_tokens == 12


async def test_a_policy_version_is_never_used_twice(env: LedgerEnvironment, other: Other) -> None:
    """Else an account as remembered from before a restore could pass for the one of a later change."""
    version = f"SELECT version FROM policy WHERE tenant_id = {env.caller.tenant_id}"
    before = await other.fetchval(version)
    change = f"UPDATE users SET disabled_at = {{}} WHERE id = {env.caller.user_id}"
    await other.execute(change.format("now()"))
    remembered = await other.fetchval(version)
    await other.execute(f"UPDATE policy SET version = {before} WHERE tenant_id = {env.caller.tenant_id}")
    await other.execute(change.format("NULL"))
    assert before < remembered < await other.fetchval(version)
