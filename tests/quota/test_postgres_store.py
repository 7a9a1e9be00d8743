"""The ledger on PostgreSQL: a backend that dies, a lock that others hold, a COMMIT whose answer is lost."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeAlias

import asyncpg
import pytest
from books import Books, batch, open_books

from support.deadlines import TEST_DEADLINE_S
from support.factories import make_store, make_terms, set_limit, user_quota
from tollkeeper.chat import Usage
from tollkeeper.errors import LedgerUnavailable
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.reservation import Reservation
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest, KeyName
from tollkeeper.quota.rules.operations import Hold, Reserve
from tollkeeper.quota.rules.page import Page, ReadSet
from tollkeeper.quota.rules.windows import Period
from tollkeeper.quota.stores.base import StoreFailed
from tollkeeper.quota.stores.postgres import connection, windows
from tollkeeper.quota.stores.postgres.idempotency_keys import read_keys
from tollkeeper.quota.stores.postgres.store import PostgresStore

pytestmark = pytest.mark.stock_postgres

Other: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

LEASE_MS = 60_000
KILL = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE application_name = 'tollkeeper-ledger' AND datname = current_database()"
)


@pytest.fixture
async def books(any_postgres_url: str) -> AsyncIterator[Books]:
    async with open_books(any_postgres_url) as made:
        yield made


@pytest.fixture
async def other(any_postgres_url: str) -> AsyncIterator[Other]:
    """A connection that is not the ledger's."""
    connection = await asyncpg.connect(any_postgres_url)
    yield connection
    await connection.close()


async def use(books: Books) -> None:
    async with books.ledger.reservation(books.caller, make_terms()) as reservation:
        reservation.set_usage(Usage(1, 1))


async def waiting_for_a_lock(other: Other) -> None:
    async with asyncio.timeout(TEST_DEADLINE_S):
        while not await other.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tollkeeper-ledger'"
            " AND datname = current_database() AND wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0.01)


async def test_a_backend_that_is_terminated_while_idle_costs_nothing(books: Books, other: Other) -> None:
    await use(books)
    assert await other.fetchval(KILL) == 1
    await use(books)
    assert (await books.window()).settled == 4


async def test_one_that_is_terminated_in_its_transaction_is_run_again_once(books: Books, other: Other) -> None:
    await use(books)
    async with other.transaction():
        await other.execute("SELECT 1 FROM windows FOR UPDATE")
        using = asyncio.create_task(use(books))
        await waiting_for_a_lock(other)
        assert await other.fetchval(KILL) == 1
    await using
    assert (await books.window()).settled == 4
    assert len(await books.charges()) == 2


async def test_a_lock_that_another_holds_only_delays(books: Books, other: Other) -> None:
    await use(books)
    books.store.runs = 0
    async with other.transaction():
        await other.execute("SELECT 1 FROM windows FOR UPDATE")
        using = asyncio.create_task(use(books))
        await waiting_for_a_lock(other)
    await using
    assert books.store.runs == 2, "it waited; it did not fail and try again"


async def test_a_lock_that_is_held_for_too_long_is_an_outage_and_passes(
    any_postgres_url: str, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = connection.BEGIN.replace("lock_timeout = 2000", "lock_timeout = 50")
    monkeypatch.setattr("tollkeeper.quota.stores.postgres.store.BEGIN", impatient)
    async with open_books(any_postgres_url) as books, asyncio.timeout(TEST_DEADLINE_S):
        await use(books)
        async with other.transaction():
            await other.execute("SELECT 1 FROM windows FOR UPDATE")
            using = asyncio.create_task(use(books))
            while books.ledger.available:
                await asyncio.sleep(0.01)
        await using
        assert (await books.window()).settled == 4


async def test_an_administrators_transaction_only_delays_the_opening_of_windows(books: Books, other: Other) -> None:
    """Windows are opened under a shared lock of the policy, which a change of users holds alone."""
    await use(books)
    async with other.transaction():
        await other.execute("UPDATE users SET role = role")
        books.clock.step(86_400)
        using = asyncio.create_task(use(books))
        await waiting_for_a_lock(other)
    await using
    assert len((await books.snapshot()).windows) == 2


async def test_a_limit_is_not_changed_while_a_window_is_being_opened(books: Books, any_postgres_url: str) -> None:
    """A window that is opened meanwhile has the new limit, or is changed with it; never the old one for ever."""
    ledger = Ledger(make_store(any_postgres_url, books.clock), lease_seconds=60)
    ledger.start()
    for limit in (500, 400, 300, 200):
        books.clock.step(86_400)
        await asyncio.gather(use(books), set_limit(ledger, user_quota(books.caller), limit))
        newest = max((await books.snapshot()).windows.values(), key=lambda window: window.starts_ms)
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
    books: Books, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old backend commits only when the second attempt has read the charges and waits for the window."""
    await use(books)
    backend = Backend(monkeypatch)
    entering = asyncio.create_task(books.ledger.reservation(books.caller, make_terms()).__aenter__())
    await asyncio.wait_for(backend.stuck.wait(), TEST_DEADLINE_S)
    await waiting_for_a_lock(other)
    await backend.commit()
    [answer] = await asyncio.gather(entering, return_exceptions=True)
    await books.idle()
    [ended] = [charge for charge in (await books.charges()).values() if charge.closed_by != "settle"]
    assert (type(answer), ended.state) in {(LedgerUnavailable, "released"), (Reservation, "dispatched")}


async def test_a_settle_that_is_still_under_way_when_it_is_run_again_happens_once(
    books: Books, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    reservation = await books.ledger.reservation(books.caller, make_terms()).__aenter__()
    reservation.set_usage(Usage(7, 30))
    backend = Backend(monkeypatch)
    leaving = asyncio.create_task(reservation.__aexit__(None, None, None))
    await asyncio.wait_for(backend.stuck.wait(), TEST_DEADLINE_S)
    await waiting_for_a_lock(other)
    await backend.commit()
    await leaving
    assert reservation.closed is not None
    assert reservation.closed.cost_tokens == 37
    assert (await books.window()).settled == 37


async def test_a_server_that_cannot_be_reached_is_an_outage(books: Books) -> None:
    store = PostgresStore("postgresql://nobody@127.0.0.1:1/nothing")
    with pytest.raises(StoreFailed) as failed:
        await batch(store, Reserve("a", books.caller, make_terms(), LEASE_MS))
    assert not failed.value.maybe_committed
    with pytest.raises(StoreFailed):
        await store.find_lapsed(1)
    with pytest.raises(StoreFailed):
        await store.delete_old_keys(1)
    await store.close()


async def test_the_clock_is_the_databases_own(books: Books, any_postgres_url: str, other: Other) -> None:
    store = PostgresStore(any_postgres_url)
    before = await other.fetchval("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
    await batch(store, Reserve("a", books.caller, make_terms(), LEASE_MS))
    created = await other.fetchval("SELECT created_ms FROM charges")
    after = await other.fetchval("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
    assert before <= created <= after
    await store.close()


async def test_what_another_process_has_locked_is_left_to_it(books: Books, other: Other) -> None:
    """A sweep passes by charges that someone is just ending."""
    for charge_id in ("a", "b"):
        await batch(books.store, Reserve(charge_id, books.caller, make_terms(), LEASE_MS))
    books.clock.step(61)
    async with other.transaction():
        await other.execute("SELECT 1 FROM charges WHERE id = 'a' FOR UPDATE")
        assert await books.store.find_lapsed(10) == ["b"]
    assert sorted(await books.store.find_lapsed(10)) == ["a", "b"]


async def test_an_old_key_that_another_process_is_using_is_not_forgotten(books: Books, other: Other) -> None:
    for key in ("a", "b"):
        await batch(
            books.store, Reserve(key, books.caller, make_terms(), LEASE_MS, keyed_request=KeyedRequest(key, "-"))
        )
    books.clock.step(86_400)
    async with other.transaction():
        await other.execute("SELECT 1 FROM idempotency_keys WHERE key = 'a' FOR UPDATE")
        assert await books.store.delete_old_keys(10) == 1
    assert await books.store.delete_old_keys(10) == 1


async def test_a_key_that_another_process_has_locked_delays_its_own_calls_alone(
    books: Books, any_postgres_url: str, other: Other
) -> None:
    """The lock is the key's, not its row's: there is no row yet."""
    await use(books)
    entering = Reserve("a", books.caller, make_terms(), LEASE_MS, keyed_request=KeyedRequest("key", "-"))
    async with other.transaction():
        await read_keys(other, [KeyName(books.caller.user_id, "key")])
        waiting = asyncio.create_task(batch(books.store, entering))
        await waiting_for_a_lock(other)
        beside = make_store(any_postgres_url, books.clock)
        assert isinstance((await batch(beside, Reserve("b", books.caller, make_terms(), LEASE_MS)))[0], Hold)
        await beside.close()
    assert isinstance((await waiting)[0], Hold)


async def test_the_numbers_of_windows_that_are_remembered_have_a_limit(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "MAX_KNOWN_WINDOWS", 3)
    await set_limit(books.ledger, user_quota(books.caller, Period.MINUTE), 10_000)
    for number in range(10):
        [held] = await batch(books.store, Reserve(f"c{number}", books.caller, make_terms(0, 1), LEASE_MS))
        assert isinstance(held, Hold)
        books.clock.step(61)
    assert len(await books.charges()) == 10


async def test_a_window_opened_by_a_batch_that_failed_is_not_remembered(books: Books) -> None:
    def work(page: Page) -> None:
        raise ZeroDivisionError

    books.clock.step(86_400)
    reserve = Reserve("a", books.caller, make_terms(), LEASE_MS)
    read_set = ReadSet()
    reserve.declare_reads(read_set, retried=False)
    with pytest.raises(ZeroDivisionError):
        await books.store.run(read_set, work)
    assert len((await books.snapshot()).windows) == 1
    [held] = await batch(books.store, reserve)
    assert isinstance(held, Hold)
    assert len((await books.snapshot()).windows) == 2
