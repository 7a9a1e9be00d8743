"""Rows that another session of PostgreSQL keeps locked: only the operations that need them wait, or are refused."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TypeAlias

import asyncpg
import pytest
from ledger_environment import LedgerEnvironment, open_ledger_environment

from support.deadlines import TEST_DEADLINE_S
from support.factories import make_principal, make_store, make_terms, set_limit, user_quota
from tollkeeper.chat import Usage
from tollkeeper.errors import LedgerBusy, LedgerUnavailable
from tollkeeper.principal import Principal
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest, KeyName, StoredResponse
from tollkeeper.quota.rules.windows import Period
from tollkeeper.quota.stores.postgres.connection import BEGIN
from tollkeeper.quota.stores.postgres.idempotency_keys import lock_number
from tollkeeper.quota.stores.postgres.locked_rows import REFRESH_INTERVAL_S, LockedRows

pytestmark = [pytest.mark.stock_postgres, pytest.mark.postgres_versions]

NEIGHBOURS_WAIT_S = 20.0
"""The lock is held until they are through, so that a wait for it has no end. On a busy machine a call takes seconds."""

Other: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

WINDOW_OF = (
    "SELECT windows.id FROM windows JOIN quotas ON quotas.id = quota_id WHERE user_id = {} FOR UPDATE OF windows"
)


@pytest.fixture
async def env(any_postgres_url: str) -> AsyncIterator[LedgerEnvironment]:
    async with open_ledger_environment(any_postgres_url) as made, asyncio.timeout(TEST_DEADLINE_S):
        yield made


@pytest.fixture
async def other(any_postgres_url: str) -> AsyncIterator[Other]:
    """A connection that is not the ledger's."""
    connection = await asyncpg.connect(any_postgres_url)
    yield connection
    await connection.close()


@pytest.fixture
async def neighbour(env: LedgerEnvironment) -> Principal:
    """A user of another tenant."""
    principal = await make_principal(env.database)
    await set_limit(env.ledger, user_quota(principal, Period.DAY), 1_000_000)
    return principal


async def call(env: LedgerEnvironment, caller: Principal, key: str | None = None) -> None:
    keyed_request = KeyedRequest(key, "0" * 64) if key is not None else None
    async with env.ledger.reservation(caller, make_terms(), keyed_request) as reservation:
        reservation.set_usage(Usage(1, 1))


async def call_beside_a_lock(env: LedgerEnvironment, caller: Principal) -> None:
    """Call again where a busy machine has not committed a reserve in time. A call that waits for the lock fails."""
    async with asyncio.timeout(NEIGHBOURS_WAIT_S):
        while True:
            with suppress(LedgerUnavailable):
                return await call(env, caller)


def lock_statements(env: LedgerEnvironment) -> dict[str, str]:
    user, number = env.caller.user_id, lock_number(KeyName(env.caller.tenant_id, env.caller.user_id, "k"))
    return {
        "a window": WINDOW_OF.format(user),
        "a user": f"SELECT 1 FROM users WHERE id = {user} FOR UPDATE",
        "a tenant": f"SELECT 1 FROM tenants WHERE id = {env.caller.tenant_id} FOR UPDATE",
        "an idempotency key": f"SELECT pg_advisory_xact_lock({number})",
    }


@pytest.mark.parametrize(
    "row",
    [
        "a window",
        pytest.param("a user", marks=pytest.mark.exhaustive),
        pytest.param("a tenant", marks=pytest.mark.exhaustive),
        pytest.param("an idempotency key", marks=pytest.mark.exhaustive),
    ],
)
async def test_a_locked_row_refuses_only_the_calls_that_need_it(
    env: LedgerEnvironment, other: Other, neighbour: Principal, row: str
) -> None:
    await call(env, env.caller)
    async with other.transaction():
        await other.execute(lock_statements(env)[row])
        blocked = asyncio.create_task(call(env, env.caller, "k"))
        served = 0
        while not blocked.done():
            await call(env, neighbour)
            served += 1
        with pytest.raises(LedgerBusy):
            await blocked
        assert env.ledger.available, "a lock is no outage"
    assert served > 3
    await call(env, env.caller, "k")
    assert (await env.window()).settled == 4


@pytest.mark.exhaustive
async def test_calls_that_need_no_locked_row_do_not_wait_for_one_either(
    env: LedgerEnvironment, other: Other, neighbour: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the row is known to be locked, no batch waits for it: its lock time-out is never spent again."""
    await call(env, env.caller)
    async with other.transaction():
        await other.execute(WINDOW_OF.format(env.caller.user_id))
        blocked = [asyncio.create_task(call(env, env.caller))]
        await call(env, neighbour)
        searches = 0
        find = LockedRows.find

        async def counted(*arguments: object) -> None:
            nonlocal searches
            searches += 1
            await find(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(LockedRows, "find", counted)
        for _ in range(5):
            blocked.append(asyncio.create_task(call(env, env.caller)))
            await call(env, neighbour)
        assert searches == 0
        results = await asyncio.gather(*blocked, return_exceptions=True)
    assert all(isinstance(result, LedgerBusy) for result in results)


async def test_a_settle_whose_row_is_locked_waits_and_holds_up_nobody(
    env: LedgerEnvironment, other: Other, neighbour: Principal
) -> None:
    holding, locked = asyncio.Event(), asyncio.Event()

    async def long_call() -> int:
        async with env.ledger.reservation(env.caller, make_terms()) as reservation:
            holding.set()
            await locked.wait()
            reservation.set_usage(Usage(3, 4))
        return reservation.closed_charge.cost_tokens

    settling = asyncio.create_task(long_call())
    await holding.wait()
    async with other.transaction():
        await other.execute(WINDOW_OF.format(env.caller.user_id))
        locked.set()
        for _ in range(20):
            await call(env, neighbour)
        assert not settling.done()
    assert await settling == 7
    assert (await env.window()).settled == 7


async def test_a_renewal_goes_on_without_the_charge_that_is_locked(
    env: LedgerEnvironment, other: Other, neighbour: Principal
) -> None:
    async with (
        env.ledger.reservation(env.caller, make_terms()) as first,
        env.ledger.reservation(neighbour, make_terms()) as second,
    ):
        before = (await env.charges())[second.charge_id].lease_ms
        env.clock.step(20)
        async with other.transaction():
            await other.execute(f"SELECT 1 FROM charges WHERE id = '{first.charge_id}' FOR UPDATE")
            await env.ledger.renew()
        charges = await env.charges()
        assert charges[second.charge_id].lease_ms == before + 20_000
        assert charges[first.charge_id].lease_ms == before
        await asyncio.sleep(REFRESH_INTERVAL_S)
        await env.ledger.renew()
        assert (await env.charges())[first.charge_id].lease_ms == before + 20_000
        assert not first.is_lost
        first.set_usage(Usage(1, 1))
        second.set_usage(Usage(1, 1))


async def test_an_administrators_open_transaction_delays_no_call(
    env: LedgerEnvironment, other: Other, neighbour: Principal
) -> None:
    """Not even where new windows must be opened, in the same tenant or in another one."""
    await call(env, env.caller)
    async with other.transaction():
        await other.execute("UPDATE users SET role = role")
        env.clock.step(86_400)
        env.store.runs = 0
        await asyncio.gather(call(env, env.caller), call(env, neighbour))
        assert env.store.runs <= 4, "two reserves and two settles; nothing was tried again"


async def test_an_administrators_open_transaction_delays_only_changes_in_its_tenant(
    env: LedgerEnvironment, other: Other, neighbour: Principal
) -> None:
    async with other.transaction():
        await other.execute(f"UPDATE users SET role = role WHERE id = {env.caller.user_id}")
        await set_limit(env.ledger, user_quota(neighbour, Period.DAY), 500)
        with pytest.raises(LedgerBusy):
            await set_limit(env.ledger, user_quota(env.caller, Period.DAY), 500)
    await set_limit(env.ledger, user_quota(env.caller, Period.DAY), 500)
    assert (await env.window()).granted == 500


@pytest.mark.exhaustive
async def test_a_window_that_another_session_is_creating_delays_only_its_user(
    env: LedgerEnvironment, other: Other, neighbour: Principal
) -> None:
    """No row is visible that could be found locked: the operations of the batch are tried one by one."""
    await call(env, neighbour)
    day = 86_400_000
    start = (env.clock.ms // day + 1) * day
    async with other.transaction():
        await other.execute(
            "INSERT INTO windows (tenant_id, quota_id, starts_ms, ends_ms, granted, sequence)"
            f" SELECT tenant_id, id, {start}, {start + day}, 0, 0 FROM quotas WHERE user_id = {env.caller.user_id}"
        )
        await other.execute("SAVEPOINT created")
        env.clock.step(86_400)
        blocked = [asyncio.create_task(call(env, env.caller)) for _ in range(5)]
        for _ in range(20):
            await asyncio.gather(*(call_beside_a_lock(env, neighbour) for _ in range(5)))
        results = await asyncio.gather(*blocked, return_exceptions=True)
        assert all(isinstance(result, LedgerBusy) for result in results), results
        await other.execute("DELETE FROM windows WHERE sequence = 0")
    await call(env, env.caller)


@pytest.mark.exhaustive
@pytest.mark.parametrize("lock", ["SELECT 1 FROM idempotency_keys FOR UPDATE", "LOCK TABLE idempotency_keys"])
async def test_settles_that_cannot_store_their_responses_hold_up_nobody(
    env: LedgerEnvironment, other: Other, neighbour: Principal, lock: str
) -> None:
    locked, holding = asyncio.Event(), asyncio.Barrier(13)

    async def long_call(key: str) -> None:
        async with env.ledger.reservation(env.caller, make_terms(1, 1), KeyedRequest(key, "0" * 64)) as reservation:
            await holding.wait()
            await locked.wait()
            reservation.set_usage(Usage(1, 1))
            reservation.store_response(lambda _: StoredResponse(200, "text/plain", b"answer"))

    settling = [asyncio.create_task(long_call(f"k{number}")) for number in range(12)]
    await holding.wait()
    async with other.transaction():
        await other.execute(lock)
        locked.set()
        for _ in range(20):
            await call_beside_a_lock(env, neighbour)
        assert not any(task.done() for task in settling)
        assert env.ledger.available
    await asyncio.gather(*settling)
    assert (await env.window()).settled == 24


@pytest.mark.exhaustive
async def test_while_an_index_is_created_only_calls_with_keys_are_refused(
    env: LedgerEnvironment, other: Other, neighbour: Principal
) -> None:
    async with other.transaction():
        await other.execute("LOCK TABLE idempotency_keys IN SHARE MODE")
        refused = [asyncio.create_task(call(env, env.caller, f"k{number}")) for number in range(5)]
        for _ in range(20):
            await asyncio.gather(call(env, neighbour), call(env, env.caller))
        results = await asyncio.gather(*refused, return_exceptions=True)
    assert all(isinstance(result, LedgerBusy) for result in results), results


@pytest.mark.exhaustive
async def test_a_locked_table_refuses_only_calls_that_read_it(
    env: LedgerEnvironment, other: Other, neighbour: Principal
) -> None:
    """The quotas of one user are remembered; those of another have just changed."""
    await call(env, neighbour)
    await other.execute(f"UPDATE users SET role = role WHERE id = {env.caller.user_id}")
    async with other.transaction():
        await other.execute("LOCK TABLE quotas IN ACCESS EXCLUSIVE MODE")
        refused = [asyncio.create_task(call(env, env.caller)) for _ in range(5)]
        for _ in range(20):
            await call_beside_a_lock(env, neighbour)
        results = await asyncio.gather(*refused, return_exceptions=True)
    assert all(isinstance(result, LedgerBusy) for result in results), results
    await call(env, env.caller)


@pytest.mark.exhaustive
async def test_a_process_that_stops_in_mid_transaction_is_rolled_back_by_the_server(
    env: LedgerEnvironment, other: Other
) -> None:
    """A stopped process keeps its locks for two seconds, whether or not it is ever continued."""
    await call(env, env.caller)
    await other.execute(BEGIN.format(lock_timeout_ms=250))
    await other.execute(WINDOW_OF.format(env.caller.user_id))
    while True:
        try:
            await call(env, env.caller)
            break
        except LedgerBusy:
            continue
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
        await other.execute("SELECT 1")


@pytest.mark.exhaustive
async def test_processes_that_write_to_one_row_all_the_time_wait_for_their_turn(
    env: LedgerEnvironment, any_postgres_url: str
) -> None:
    """A row that is locked whenever one looks, but changes, is no row that anybody keeps."""
    ledgers = [Ledger(make_store(any_postgres_url, env.clock), lease_seconds=60) for _ in range(3)]
    await set_limit(env.ledger, user_quota(env.caller, Period.DAY), 10**6)
    for ledger in ledgers:
        ledger.start()

    async def busy(ledger: Ledger) -> None:
        for _ in range(10):
            async with ledger.reservation(env.caller, make_terms()) as reservation:
                reservation.set_usage(Usage(1, 1))

    await asyncio.gather(*(busy(ledger) for ledger in [*ledgers, env.ledger] for _ in range(8)))
    for ledger in ledgers:
        await ledger.stop()
    assert (await env.window()).settled == 4 * 8 * 10 * 2
