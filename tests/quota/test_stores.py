"""Both stores: changes of other connections count at once, and connection failures only cause delay."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from ledger_environment import LedgerEnvironment, batch, open_ledger_environment
from snapshot import audit, make_reader, read_snapshot

from support.factories import (
    FakeClock,
    charge_id,
    make_principal,
    make_store,
    make_terms,
    operation_id,
    set_limit,
    tenant_quota,
    user_quota,
)
from tollkeeper.chat import Usage
from tollkeeper.database.engine import Database
from tollkeeper.errors import QuotaExceeded, TollkeeperError, Unauthenticated
from tollkeeper.principal import Principal, Role
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.decide import decide
from tollkeeper.quota.rules.limit_changes import Grant, SetLimit
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.operations import Administer, Hold, Operation, Renew, Reserve, Settle
from tollkeeper.quota.rules.page import Page, ReadSet
from tollkeeper.quota.rules.windows import Period
from tollkeeper.quota.stores.base import Store

pytestmark = [pytest.mark.stock_postgres, pytest.mark.postgres_versions]

LEASE_MS = 60_000


@pytest.fixture
async def env(database_url: str) -> AsyncIterator[LedgerEnvironment]:
    async with open_ledger_environment(database_url) as made:
        yield made


async def use(env: LedgerEnvironment) -> None:
    async with env.ledger.reservation(env.caller, make_terms()) as reservation:
        reservation.set_usage(Usage(1, 1))


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE users SET disabled_at = '2026-01-01 00:00:00'",
        "UPDATE tenants SET disabled_at = '2026-01-01 00:00:00'",
        "UPDATE users SET token_version = token_version + 1",
    ],
)
async def test_a_user_disabled_by_another_connection_is_refused_at_the_next_reserve(
    env: LedgerEnvironment, change: str
) -> None:
    await use(env)
    await env.reader.execute(change)
    with pytest.raises(Unauthenticated):
        await use(env)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE api_keys SET revoked_ms = 1 WHERE id = 'key_1'",
        "DELETE FROM api_keys WHERE id = 'key_1'",
        "UPDATE api_keys SET expires_ms = 1 WHERE id = 'key_1'",
        "UPDATE users SET disabled_at = '2026-01-01 00:00:00'",
    ],
)
async def test_a_key_revoked_by_another_connection_is_refused_at_the_next_reserve(
    env: LedgerEnvironment, change: str
) -> None:
    with_key = await _with_keys(env)
    await use(with_key)
    await env.reader.execute(change)
    with pytest.raises(Unauthenticated):
        await use(with_key)
    if "users" not in change:
        await use(replace(with_key, caller=replace(with_key.caller, api_key="key_2")))


async def test_a_key_expires_by_the_clock_of_the_ledger(env: LedgerEnvironment) -> None:
    with_key = await _with_keys(env, "key_2")
    env.clock.step(59)
    await use(with_key)
    env.clock.step(1)
    with pytest.raises(Unauthenticated):
        await use(with_key)


async def _with_keys(env: LedgerEnvironment, used: str = "key_1") -> LedgerEnvironment:
    """The same books, but their caller comes with an API key. Of two keys the second ends after a minute."""
    ends_ms = env.clock.now_ms() + 60_000
    for number, expires_ms in enumerate(("NULL", ends_ms), 1):
        await env.reader.execute(
            "INSERT INTO api_keys (id, tenant_id, user_id, name, prefix, key_hash, scopes, created_ms, expires_ms)"
            f" VALUES ('key_{number}', {env.caller.tenant_id}, {env.caller.user_id}, 'robot', 'tk-', '{number}',"
            f" 'ai', 0, {expires_ms})"
        )
    return replace(env, caller=replace(env.caller, api_key=used))


async def test_a_session_revoked_by_another_connection_is_refused_at_the_next_reserve(env: LedgerEnvironment) -> None:
    """As long as an access token of it can live; a token of another session is not affected."""
    ends_ms = env.clock.now_ms() + 60_000
    for number in (1, 2):
        await env.reader.execute(
            "INSERT INTO sessions (id, tenant_id, user_id, method, role, token_version, generation, token_hash,"
            " created_ms, authenticated_ms, rotated_ms, access_ends_ms, expires_ms, address, user_agent) VALUES"
            f" ('ses_{number}', {env.caller.tenant_id}, {env.caller.user_id}, 'password', 'member', 0, 0, '-',"
            f" 0, 0, 0, {ends_ms}, {ends_ms}, '', '')"
        )
    in_session = replace(env, caller=replace(env.caller, session="ses_1"))
    await use(in_session)
    await env.reader.execute("UPDATE sessions SET revoked_ms = 1 WHERE id = 'ses_1'")
    with pytest.raises(Unauthenticated):
        await use(in_session)
    await use(replace(env, caller=replace(env.caller, session="ses_2")))
    await use(env)


async def test_an_unknown_user_is_refused(env: LedgerEnvironment) -> None:
    nobody = Principal(10**6, env.caller.tenant_id, Role.MEMBER, 0)
    [answer] = await batch(env.store, Reserve(charge_id("a"), nobody, make_terms(), LEASE_MS))
    assert isinstance(answer, Unauthenticated)


async def test_a_quota_added_by_another_connection_counts_at_the_next_reserve(env: LedgerEnvironment) -> None:
    await use(env)
    await env.reader.execute(
        "INSERT INTO quotas (tenant_id, user_id, unit, period, granted)"
        f" VALUES ({env.caller.tenant_id}, NULL, 'tokens', 'minute', 99)"
    )
    with pytest.raises(QuotaExceeded) as refused:
        await use(env)
    assert (refused.value.quota, refused.value.limit) == ("tenant-minute", 99)


async def test_a_limit_changed_by_another_process_counts_at_the_next_reserve(
    env: LedgerEnvironment, database_url: str
) -> None:
    await use(env)
    other = Ledger(make_store(database_url, env.clock), lease_seconds=60)
    other.start()
    await set_limit(other, user_quota(env.caller), 50)
    with pytest.raises(QuotaExceeded):
        await use(env)
    await set_limit(other, user_quota(env.caller), 150)
    await use(env)
    await other.stop()


async def test_an_administrative_operation_is_applied_once_however_often_it_is_repeated(
    env: LedgerEnvironment, database_url: str
) -> None:
    key = user_quota(env.caller)

    def grant() -> Administer:
        return Administer(operation_id("grant"), (Grant(key, 70),), "test", "test")

    for balances in await batch(env.store, grant(), grant()):
        assert isinstance(balances, tuple)
        assert balances[0].limit == 1_070
    elsewhere = Ledger(make_store(database_url, env.clock), lease_seconds=60)
    elsewhere.start()
    (balance,) = await elsewhere.administer(
        (Grant(key, 70),), actor="test", reason="test", operation_id=operation_id("grant")
    )
    await elsewhere.stop()
    assert balance.limit == 1_070
    assert (await env.window()).granted == 1_070


async def test_a_batch_that_decides_nothing_writes_nothing(env: LedgerEnvironment) -> None:
    await batch(env.store, Renew({charge_id("a"): (1, 1)}, {charge_id("a"): env.caller.tenant_id}, LEASE_MS))
    assert await env.charges() == {}


async def test_an_error_in_a_batch_rolls_it_back_and_the_next_batch_commits(env: LedgerEnvironment) -> None:
    def work(page: Page) -> None:
        decide(page, [operation])
        raise ZeroDivisionError

    operation = Reserve(charge_id("a"), env.caller, make_terms(), LEASE_MS)
    read_set = ReadSet()
    operation.declare_reads(read_set, retried=False)
    with pytest.raises(ZeroDivisionError):
        await env.store.run(read_set, work)
    assert (await env.window()).pending == 0
    [held] = await batch(env.store, operation)
    assert isinstance(held, Hold)


async def test_two_processes_with_the_same_users_and_windows_never_deadlock(
    database: Database, database_url: str
) -> None:
    """Charges, policy, windows in one order, though in every batch other users come first and limits move."""
    users = await people(database)
    tenant_id = users[0].tenant_id
    clock = FakeClock()
    stores = [make_store(database_url, clock) for _ in range(2)]
    for user in users:
        limits = (SetLimit(user_quota(user, Period.MINUTE), 10**6), SetLimit(tenant_quota(user), 10**6))
        await batch(stores[0], Administer(operation_id(f"first{user.user_id}"), limits, "test", "test"))
    numbers = itertools.count()
    charges: list[str] = []

    async def busy(store: Store, order: list[Principal]) -> None:
        for turn in range(40):
            reserves = [Reserve(charge_id(f"c{next(numbers)}"), user, make_terms(), LEASE_MS) for user in order]
            others = charges[-8:] if turn % 2 else charges[-8:][::-1]
            closing: list[Operation] = [Settle(one, tenant_id, Usage(1, 1), Basis.PROVIDER) for one in others[:4]]
            closing += [Renew(dict.fromkeys(others[4:], (1, 1)), dict.fromkeys(others[4:], tenant_id), LEASE_MS)]
            if turn % 5 == 0:
                closing += [
                    Administer(
                        operation_id(f"adm{next(numbers)}"), (SetLimit(tenant_quota(order[0]), 10**6),), "test", "-"
                    )
                ]
            results = await batch(store, *closing, *reserves)
            assert not [one for one in results if isinstance(one, TollkeeperError)]
            charges.extend(reserve.charge_id for reserve in reserves)
            if turn % 10 == 0:
                clock.step(61)

    await asyncio.gather(busy(stores[0], users), busy(stores[1], users[::-1]))
    for store in stores:
        await store.close()
    reader = await make_reader(database_url)
    audit(await read_snapshot(reader))
    await reader.close()


async def people(database: Database) -> list[Principal]:
    first = await make_principal(database)
    return [first] + [await make_principal(database, first.tenant_id) for _ in range(3)]
