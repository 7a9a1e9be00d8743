"""The ledger on PostgreSQL: a backend that dies, a lock that others hold, a COMMIT whose answer is lost."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeAlias

import asyncpg
import pytest
from ledger_environment import LedgerEnvironment, batch, open_ledger_environment

from support.deadlines import TEST_DEADLINE_S
from support.factories import charge_id, make_store, make_terms, set_limit, user_quota
from tollkeeper.chat import Usage
from tollkeeper.errors import LedgerUnavailable
from tollkeeper.quota import in_flight
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.reservation import Reservation
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest, KeyName
from tollkeeper.quota.rules.operations import Hold, Reserve
from tollkeeper.quota.rules.page import Page, ReadSet
from tollkeeper.quota.rules.windows import Period
from tollkeeper.quota.stores.base import StoreFailed
from tollkeeper.quota.stores.postgres import windows
from tollkeeper.quota.stores.postgres.idempotency_keys import lock_keys
from tollkeeper.quota.stores.postgres.store import PostgresStore

pytestmark = [pytest.mark.stock_postgres, pytest.mark.postgres_versions]

Other: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

LEASE_MS = 60_000
KILL = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE application_name = 'tollkeeper-ledger' AND datname = current_database()"
)


@pytest.fixture
async def env(any_postgres_url: str) -> AsyncIterator[LedgerEnvironment]:
    async with open_ledger_environment(any_postgres_url) as made:
        yield made


@pytest.fixture
async def other(any_postgres_url: str) -> AsyncIterator[Other]:
    """A connection that is not the ledger's."""
    connection = await asyncpg.connect(any_postgres_url)
    yield connection
    await connection.close()


async def use(env: LedgerEnvironment) -> None:
    async with env.ledger.reservation(env.caller, make_terms()) as reservation:
        reservation.set_usage(Usage(1, 1))


async def waiting_for_a_lock(other: Other) -> None:
    async with asyncio.timeout(TEST_DEADLINE_S):
        while not await other.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tollkeeper-ledger'"
            " AND datname = current_database() AND wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0.01)


async def test_a_backend_that_is_terminated_while_idle_costs_nothing(env: LedgerEnvironment, other: Other) -> None:
    await use(env)
    assert await other.fetchval(KILL) == 1
    await use(env)
    assert (await env.window()).settled == 4


async def test_a_batch_whose_backend_is_terminated_is_repeated_once(env: LedgerEnvironment, other: Other) -> None:
    await use(env)
    async with other.transaction():
        await other.execute("SELECT 1 FROM windows FOR UPDATE")
        using = asyncio.create_task(use(env))
        await waiting_for_a_lock(other)
        assert await other.fetchval(KILL) == 1
    await using
    assert (await env.window()).settled == 4
    assert len(await env.charges()) == 2


async def test_a_row_lock_of_another_connection_only_delays(env: LedgerEnvironment, other: Other) -> None:
    await use(env)
    env.store.runs = 0
    async with other.transaction():
        await other.execute("SELECT 1 FROM windows FOR UPDATE")
        using = asyncio.create_task(use(env))
        await waiting_for_a_lock(other)
    await using
    assert env.store.runs == 2, "it waited; it did not fail and try again"


async def test_a_limit_is_not_changed_while_a_window_is_being_opened(
    env: LedgerEnvironment, any_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window that is opened meanwhile has the new limit, or is changed with it; never the old one for ever."""
    monkeypatch.setattr(in_flight, "RESERVE_WAIT_S", TEST_DEADLINE_S)
    ledger = Ledger(make_store(any_postgres_url, env.clock), lease_seconds=60)
    ledger.start()
    for limit in (500, 400, 300, 200):
        env.clock.step(86_400)
        await asyncio.gather(use(env), set_limit(ledger, user_quota(env.caller), limit))
        newest = max((await env.snapshot()).windows.values(), key=lambda window: window.starts_ms)
        assert newest.granted == limit
    await ledger.stop()


class Backend:
    """A backend that has been sent COMMIT, has not done it yet, and whose connection is broken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stuck = asyncio.Event()
        self._connection: Other | None = None
        self._execute, self._close = asyncpg.Connection.execute, asyncpg.Connection.close
        backend = self

        async def execute(connection: Other, query: str, *args: object, timeout: float | None = None) -> str:
            if query == "COMMIT" and not backend.stuck.is_set():
                backend._connection = connection
                backend.stuck.set()
                raise ConnectionResetError
            return str(await backend._execute(connection, query, *args, timeout=timeout))

        async def close(connection: Other, *, timeout: float | None = None) -> None:
            if connection is not backend._connection:
                await backend._close(connection, timeout=timeout)

        monkeypatch.setattr(asyncpg.Connection, "execute", execute)
        monkeypatch.setattr(asyncpg.Connection, "close", close)

    async def commit(self) -> None:
        assert self._connection is not None
        await self._execute(self._connection, "COMMIT")
        await self._close(self._connection)


async def test_a_commit_that_is_still_under_way_when_it_is_run_again_leaves_no_hold(
    env: LedgerEnvironment, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old backend commits only when the second attempt has read the charges and waits for the window."""
    await use(env)
    backend = Backend(monkeypatch)
    entering = asyncio.create_task(env.ledger.reservation(env.caller, make_terms()).__aenter__())
    await asyncio.wait_for(backend.stuck.wait(), TEST_DEADLINE_S)
    await waiting_for_a_lock(other)
    await backend.commit()
    [answer] = await asyncio.gather(entering, return_exceptions=True)
    await env.idle()
    [ended] = [charge for charge in (await env.charges()).values() if charge.closed_by != "settle"]
    assert (type(answer), ended.state) in {(LedgerUnavailable, "released"), (Reservation, "dispatched")}


async def test_a_settle_that_is_still_under_way_when_it_is_run_again_happens_once(
    env: LedgerEnvironment, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    reservation = await env.ledger.reservation(env.caller, make_terms()).__aenter__()
    reservation.set_usage(Usage(7, 30))
    backend = Backend(monkeypatch)
    leaving = asyncio.create_task(reservation.__aexit__(None, None, None))
    await asyncio.wait_for(backend.stuck.wait(), TEST_DEADLINE_S)
    await waiting_for_a_lock(other)
    await backend.commit()
    await leaving
    assert reservation.closed is not None
    assert reservation.closed.cost_tokens == 37
    assert (await env.window()).settled == 37


async def test_a_server_that_cannot_be_reached_is_an_outage(env: LedgerEnvironment) -> None:
    store = PostgresStore("postgresql://nobody@127.0.0.1:1/nothing")
    with pytest.raises(StoreFailed) as failed:
        await batch(store, Reserve(charge_id("a"), env.caller, make_terms(), LEASE_MS))
    assert not failed.value.maybe_committed
    with pytest.raises(StoreFailed):
        await store.find_lapsed(1)
    with pytest.raises(StoreFailed):
        await store.delete_old_keys(1)
    await store.close()


async def test_the_clock_is_the_databases_own(env: LedgerEnvironment, any_postgres_url: str, other: Other) -> None:
    store = PostgresStore(any_postgres_url)
    before = await other.fetchval("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
    await batch(store, Reserve(charge_id("a"), env.caller, make_terms(), LEASE_MS))
    created = await other.fetchval("SELECT created_ms FROM charges")
    after = await other.fetchval("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
    assert before <= created <= after
    await store.close()


async def test_a_sweep_skips_charges_that_another_process_has_locked(env: LedgerEnvironment, other: Other) -> None:
    """A sweep passes by charges that someone is just ending."""
    for name in ("a", "b"):
        await batch(env.store, Reserve(charge_id(name), env.caller, make_terms(), LEASE_MS))
    env.clock.step(61)
    async with other.transaction():
        await other.execute(f"SELECT 1 FROM charges WHERE id = '{charge_id('a')}' FOR UPDATE")
        assert await env.store.find_lapsed(10) == [(charge_id("b"), env.caller.tenant_id)]
    assert [id_ for id_, _ in sorted(await env.store.find_lapsed(10))] == [charge_id("a"), charge_id("b")]


async def test_an_expired_key_that_another_process_has_locked_is_not_deleted(
    env: LedgerEnvironment, other: Other
) -> None:
    for key in ("a", "b"):
        await batch(
            env.store, Reserve(charge_id(key), env.caller, make_terms(), LEASE_MS, keyed_request=KeyedRequest(key, "-"))
        )
    env.clock.step(86_400)
    async with other.transaction():
        await other.execute("SELECT 1 FROM idempotency_keys WHERE key = 'a' FOR UPDATE")
        assert await env.store.delete_old_keys(10) == 1
    assert await env.store.delete_old_keys(10) == 1


async def test_a_key_that_another_process_has_locked_delays_its_own_calls_alone(
    env: LedgerEnvironment, any_postgres_url: str, other: Other
) -> None:
    """The lock is the key's, not its row's: there is no row yet."""
    await use(env)
    entering = Reserve(charge_id("a"), env.caller, make_terms(), LEASE_MS, keyed_request=KeyedRequest("key", "-"))
    async with other.transaction():
        await lock_keys(other, [KeyName(env.caller.tenant_id, env.caller.user_id, "key")], {})
        waiting = asyncio.create_task(batch(env.store, entering))
        await waiting_for_a_lock(other)
        beside = make_store(any_postgres_url, env.clock)
        assert isinstance((await batch(beside, Reserve(charge_id("b"), env.caller, make_terms(), LEASE_MS)))[0], Hold)
        await beside.close()
    assert isinstance((await waiting)[0], Hold)


async def test_the_cache_of_window_ids_is_bounded(env: LedgerEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "MAX_KNOWN_WINDOWS", 3)
    await set_limit(env.ledger, user_quota(env.caller, Period.MINUTE), 10_000)
    for number in range(10):
        [held] = await batch(env.store, Reserve(charge_id(f"c{number}"), env.caller, make_terms(0, 1), LEASE_MS))
        assert isinstance(held, Hold)
        env.clock.step(61)
    assert len(await env.charges()) == 10


async def test_a_window_opened_by_a_failed_batch_is_not_cached(env: LedgerEnvironment) -> None:
    def work(page: Page) -> None:
        raise ZeroDivisionError

    env.clock.step(86_400)
    reserve = Reserve(charge_id("a"), env.caller, make_terms(), LEASE_MS)
    read_set = ReadSet()
    reserve.declare_reads(read_set, retried=False)
    with pytest.raises(ZeroDivisionError):
        await env.store.run(read_set, work)
    assert len((await env.snapshot()).windows) == 1
    [held] = await batch(env.store, reserve)
    assert isinstance(held, Hold)
    assert len((await env.snapshot()).windows) == 2
