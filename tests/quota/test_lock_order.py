"""One lock order on PostgreSQL: administration and calls, all at once, wait for each other and never in a circle.

A session locks a row of a tenant, a user or an API key, and then, by trigger, the tenant's policy row. The ledger
locks charges, idempotency keys, policy rows, quotas and windows, in this order. Of users and tenants it needs only
the key-share locks of foreign keys, which wait for no update.
"""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import asyncpg
import pytest

from support.depth import DEPTH
from support.encryption import make_data_keys
from support.factories import make_principal, make_store, make_tenant, make_terms, tenant_quota, user_quota
from tollkeeper.chat import Message, Usage
from tollkeeper.clock import SystemClock
from tollkeeper.conversations import Conversations
from tollkeeper.database.engine import Database
from tollkeeper.errors import (
    DatabaseUnavailable,
    LedgerBusy,
    LedgerUnavailable,
    QuotaRefusal,
    TollkeeperError,
    Unauthenticated,
)
from tollkeeper.identity import accounts, keys
from tollkeeper.identity.models import Tenant, User
from tollkeeper.principal import Access, Principal
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest
from tollkeeper.quota.rules.limit_changes import SetLimit
from tollkeeper.quota.rules.windows import Period

pytestmark = [pytest.mark.stock_postgres, pytest.mark.exhaustive, pytest.mark.postgres_versions]

ROUNDS = max(10, int(40 * DEPTH.examples))
USERS = 4
OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
EXPECTED = (QuotaRefusal, Unauthenticated)
"""What happens to the calls of users who are disabled, or have a small limit, at that moment."""


class Administration:
    """What administrators and users of two tenants do. Each method does one thing, to random rows."""

    def __init__(self, url: str, users: list[Principal], number: int) -> None:
        self._random = random.Random(number)
        self._database = Database(url)
        self._ledger = Ledger(make_store(url), lease_seconds=60)
        self._conversations = Conversations(self._database, 10_000, keys=make_data_keys(), clock=SystemClock())
        self._users = users
        self._numbers = itertools.count(number * 1_000)
        self._now_ms = SystemClock().now_ms()

    async def run(self) -> None:
        """Do ROUNDS of everything, in a random order."""
        self._ledger.start()
        jobs: list[Callable[[], Awaitable[None]]] = [
            self.toggle_user,
            self.toggle_tenant,
            self.add_user,
            self.set_limits,
            self.change_password,
            self.make_and_revoke_keys,
            self.talk,
            *[self.call] * 4,
        ]
        try:
            for _ in range(ROUNDS):
                await asyncio.gather(*(self._attempt(job) for job in self._random.sample(jobs, len(jobs))))
        finally:
            await self._ledger.stop()
            await self._database.close()

    async def _attempt(self, job: Callable[[], Awaitable[None]]) -> None:
        """On a busy machine, a lock may take longer than an operation waits for it."""
        with suppress(DatabaseUnavailable, LedgerBusy, LedgerUnavailable):
            await job()

    @property
    def _user(self) -> Principal:
        return self._random.choice(self._users)

    async def toggle_user(self) -> None:
        async with self._database.session() as session:
            user = await session.get_one(User, self._user.user_id)
            accounts.disable(user, self._now_ms)
            await session.flush()
            accounts.enable(user)

    async def toggle_tenant(self) -> None:
        async with self._database.session() as session:
            tenant = await session.get_one(Tenant, self._user.tenant_id)
            accounts.disable(tenant, self._now_ms)
            await session.flush()
            accounts.enable(tenant)

    async def add_user(self) -> None:
        await make_principal(self._database, self._user.tenant_id, email=f"new{next(self._numbers)}@example.com")

    async def set_limits(self) -> None:
        """Of two users and both tenants, all or none."""
        chosen = self._random.sample(self._users, 2)
        named = {user_quota(user, self._random.choice(list(Period))) for user in chosen}
        named |= {tenant_quota(user) for user in chosen}
        changes = tuple(SetLimit(key, self._random.choice([100_000, 200_000])) for key in named)
        await self._ledger.administer(changes, actor="test", reason="test")

    async def change_password(self) -> None:
        async with self._database.session() as session:
            accounts.change_password(await session.get_one(User, self._user.user_id), "-")

    async def make_and_revoke_keys(self) -> None:
        async with self._database.session() as session:
            user = await session.get_one(User, self._user.user_id)
            await keys.create(session, user, "key", {Access.AI}, None, self._now_ms)
            if self._random.random() < 0.5:
                await keys.revoke_all(session, user, self._now_ms)

    async def talk(self) -> None:
        conversation = await self._conversations.open(self._user, "one", (Message("user", "Hello"),))
        await conversation.add("Hello")

    async def call(self) -> None:
        keyed = KeyedRequest(f"key{self._random.randrange(5)}", "-") if self._random.random() < 0.3 else None
        try:
            async with self._ledger.reservation(self._user, make_terms(), keyed) as reservation:
                reservation.set_usage(Usage(1, 1))
        except EXPECTED:
            pass
        except TollkeeperError as error:
            if not error.code.startswith(("idempotency", "previous")):
                raise


async def test_administration_beside_calls_never_deadlocks(any_postgres_url: str) -> None:
    database = Database(any_postgres_url)
    tenants = [await make_tenant(database) for _ in range(2)]
    users = [await make_principal(database, tenants[number % 2]) for number in range(USERS)]
    await database.close()
    connection = await asyncpg.connect(any_postgres_url)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE \"{name}\" SET deadlock_timeout = '5ms'")  # found before any lock_timeout
    processes = [Administration(any_postgres_url, users, number) for number in range(3)]
    await asyncio.gather(*(process.run() for process in processes))
    while await connection.fetchval(OTHERS):  # the statistics of a session are complete when it has ended
        await asyncio.sleep(0.05)
    deadlocks = await connection.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    await connection.close()
    assert deadlocks == 0


async def test_a_session_fails_instead_of_waiting_long_for_a_lock(any_postgres_url: str) -> None:
    database = Database(any_postgres_url)
    caller = await make_principal(database)
    async with database.session() as session:
        connection = await session.connection()
        settings = ("jit", "lock_timeout", "idle_in_transaction_session_timeout")
        found = [(await connection.exec_driver_sql(f"SHOW {name}")).scalar_one() for name in settings]
        assert found == ["off", "2s", "5s"]
    other = await asyncpg.connect(any_postgres_url)
    async with other.transaction():
        await other.execute("SELECT 1 FROM users WHERE id = $1 FOR UPDATE", caller.user_id)
        with pytest.raises(DatabaseUnavailable):
            async with database.session() as session:
                accounts.change_password(await session.get_one(User, caller.user_id), "-")
    await other.close()
    await database.close()
