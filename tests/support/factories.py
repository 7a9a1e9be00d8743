"""Rows and parts for tests, each with one call."""

import itertools
from dataclasses import dataclass
from pathlib import Path

from tollkeeper.chat import Price
from tollkeeper.clock import Clock, SystemClock
from tollkeeper.database.engine import Database
from tollkeeper.identity.models import Tenant, User
from tollkeeper.principal import Principal, Role
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.limit_changes import SetLimit
from tollkeeper.quota.rules.meter import Meter
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import Terms
from tollkeeper.quota.rules.page import QuotaKey, Subject
from tollkeeper.quota.rules.windows import Period
from tollkeeper.quota.stores.base import Store
from tollkeeper.quota.stores.postgres.store import PostgresStore
from tollkeeper.quota.stores.sqlite.store import SqliteStore

_numbers = itertools.count(1)


@dataclass
class FakeClock:
    """A clock that stands still until it is moved."""

    ms: int = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.ms

    def step(self, seconds: float) -> None:
        self.ms += int(seconds * 1000)


def charge_id(name: str) -> str:
    """The id of a charge of June 2027. Ids sort as the first ten characters of their names."""
    return time_sorted_id("chg", name)


def operation_id(name: str) -> str:
    """The same for an administrative operation."""
    return time_sorted_id("adm", name)


def time_sorted_id(prefix: str, name: str) -> str:
    return f"{prefix}_{1_812_000_000_000:012x}{name.encode()[:10].ljust(10, bytes(1)).hex()}"


def make_store(database_url: str, clock: Clock | None = None) -> Store:
    """The store for a URL; with a clock, on that clock."""
    if database_url.startswith("sqlite:///"):
        return SqliteStore(Path(database_url.removeprefix("sqlite:///")), clock or SystemClock())
    return PostgresStore(database_url, clock)


async def make_tenant(database: Database, name: str | None = None) -> int:
    async with database.session() as session:
        tenant = Tenant(name=name or f"tenant-{next(_numbers)}")
        session.add(tenant)
        await session.flush()
        assert tenant.id is not None
        return tenant.id


async def make_principal(
    database: Database, tenant_id: int | None = None, *, email: str | None = None, role: Role = Role.MEMBER
) -> Principal:
    """A user, as the principal that logging in would give."""
    if tenant_id is None:
        tenant_id = await make_tenant(database)
    async with database.session() as session:
        address = email or f"user-{next(_numbers)}@example.com"
        user = User(tenant_id=tenant_id, email=address, password_hash="-", role=role.value)
        session.add(user)
        await session.flush()
        assert user.id is not None
        return Principal(user.id, tenant_id, role, 0)


def user_quota(caller: Principal, period: Period = Period.DAY, unit: Unit = Unit.TOKENS) -> QuotaKey:
    return QuotaKey(Subject(caller.tenant_id, caller.user_id), unit, period)


def tenant_quota(caller: Principal, period: Period = Period.MONTH, unit: Unit = Unit.TOKENS) -> QuotaKey:
    return QuotaKey(Subject(caller.tenant_id), unit, period)


async def set_limit(ledger: Ledger, key: QuotaKey, limit: int) -> None:
    await ledger.administer((SetLimit(key, limit),), actor="test", reason="test")


def make_terms(
    input_bound: int = 10,
    output: int = 90,
    *,
    least: int | None = None,
    weight_milli: int = 1_000,
    price: Price | None = None,
) -> Terms:
    """Terms whose hold is input_bound + output; `least` makes the output one that may be clamped."""
    return Terms(
        surface="query",
        provider="echo",
        model="echo",
        meter=Meter(weight_milli, price),
        input_bound=input_bound,
        wanted_output=output,
        least_output=output if least is None else least,
    )
