"""Fills an empty ledger with many users and charges: as rows, in bulk, past the server.

`tollkeeper ledger verify` finds nothing wrong with them.
"""

import random
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import NamedTuple

import asyncpg

from tollkeeper.principal import Role
from tollkeeper.quota.rules.models import Basis, ChargeState, EntryKind, Unit
from tollkeeper.quota.rules.windows import Period, span
from tollkeeper.quota.time_sorted_ids import month_of

USERS_PER_TENANT = 2_000
ENTRIES_PER_CHARGE = 4
"""A reserve and a settle in the window of the user, and in that of the tenant."""
PERIOD = Period.MONTH
LIMIT = 10**15
HELD_TOKENS, INPUT_TOKENS, OUTPUT_TOKENS = 100, 7, 30
COST_TOKENS = INPUT_TOKENS + OUTPUT_TOKENS
CHARGED_FOR_MS = 3_600_000
"""The charges are spread over so much time before now, but not over more than this month."""
ROWS_PER_INSERT = 20_000

Row = Sequence[object]


class Rows(NamedTuple):
    """The rows of one table. Columns that are not named have their default."""

    table: str
    columns: Sequence[str]
    rows: Iterator[Row]

    def chunks(self) -> Iterator[list[Row]]:
        while chunk := list(islice(self.rows, ROWS_PER_INSERT)):
            yield chunk


@dataclass(frozen=True, slots=True)
class LedgerSize:
    """How much a ledger has. Each user has a quota, and each tenant has one for its users together."""

    users: int
    entries: int

    @property
    def tenants(self) -> int:
        return -(-self.users // USERS_PER_TENANT)

    @property
    def charges(self) -> int:
        return self.entries // ENTRIES_PER_CHARGE

    def users_of(self, tenant_id: int) -> range:
        """The ids of a tenant's users."""
        first = (tenant_id - 1) * USERS_PER_TENANT + 1
        return range(first, min(self.users, first + USERS_PER_TENANT - 1) + 1)

    def charges_of(self, user_id: int) -> int:
        """How many charges a user has. The users take turns."""
        return (self.charges - user_id) // self.users + 1

    def __str__(self) -> str:
        return f"{self.users:,} users, {self.entries:,} entries"


def tenant_of(user_id: int) -> int:
    """The id of a user's tenant."""
    return (user_id - 1) // USERS_PER_TENANT + 1


def email_of(user_id: int) -> str:
    """The e-mail address of a user."""
    return f"user-{user_id}@example.com"


def fill_sqlite(path: str, size: LedgerSize, password_hash: str) -> None:
    """Fill the migrated, empty database. All users have the same password."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        for rows in _all_rows(size, password_hash):
            marks = ", ".join("?" * len(rows.columns))
            statement = f"INSERT INTO {rows.table} ({', '.join(rows.columns)}) VALUES ({marks})"
            for chunk in rows.chunks():
                connection.executemany(statement, chunk)
            connection.commit()


async def fill_postgres(url: str, size: LedgerSize, password_hash: str) -> None:
    """The same on PostgreSQL. Ends with ANALYZE, which the database itself runs some time after so many rows."""
    connection = await asyncpg.connect(url)
    try:
        for rows in _all_rows(size, password_hash):
            for chunk in rows.chunks():
                await connection.copy_records_to_table(rows.table, records=chunk, columns=rows.columns)
            if rows.table in ("tenants", "users", "quotas", "windows"):
                sequence = f"pg_get_serial_sequence('{rows.table}', 'id')"
                await connection.execute(f"SELECT setval({sequence}, max(id)) FROM {rows.table}")
        await connection.execute("ANALYZE")
    finally:
        await connection.close()


def _all_rows(size: LedgerSize, password_hash: str) -> Iterator[Rows]:
    """The rows of each table, in the order of the references between the tables."""
    now_ms = time.time_ns() // 1_000_000
    month_start_ms, month_end_ms = span(PERIOD, now_ms)
    first_ms = max(month_start_ms, now_ms - CHARGED_FOR_MS)
    created_at = datetime.now(UTC).replace(tzinfo=None)
    tenants = range(1, size.tenants + 1)
    tenant_rows = ((tenant, f"tenant-{tenant}", created_at) for tenant in tenants)
    yield Rows("tenants", ("id", "name", "created_at"), tenant_rows)
    yield Rows(
        "users",
        ("id", "tenant_id", "email", "password_hash", "role", "created_at"),
        (
            (user, tenant_of(user), email_of(user), password_hash, Role.MEMBER.value, created_at)
            for user in range(1, size.users + 1)
        ),
    )
    yield Rows(
        "quotas",
        ("id", "tenant_id", "user_id", "unit", "period", "granted"),
        (
            (quota, tenant, user, Unit.TOKENS.value, PERIOD.value, LIMIT)
            for quota, (tenant, user, _) in enumerate(_owners(size), 1)
        ),
    )
    yield Rows(
        "windows",
        ("id", "tenant_id", "quota_id", "starts_ms", "ends_ms", "granted", "settled", "sequence"),
        (
            (quota, tenant, quota, month_start_ms, month_end_ms, LIMIT, COST_TOKENS * charges, 1 + 2 * charges)
            for quota, (tenant, _, charges) in enumerate(_owners(size), 1)
        ),
    )
    yield Rows("charges", _CHARGE_COLUMNS, _charges(size, first_ms, now_ms))
    yield Rows("entries", _ENTRY_COLUMNS, _entries(size, first_ms, now_ms))


def _owners(size: LedgerSize) -> Iterator[tuple[int, int | None, int]]:
    """The tenant, the user and the number of charges of each quota: first those of users, then those of tenants."""
    for user in range(1, size.users + 1):
        yield tenant_of(user), user, size.charges_of(user)
    for tenant in range(1, size.tenants + 1):
        yield tenant, None, sum(map(size.charges_of, size.users_of(tenant)))


_CHARGE_COLUMNS = (
    *("id", "tenant_id", "month", "user_id", "surface", "provider", "model", "state", "basis", "closed_by"),
    *("weight_milli", "input_bound", "granted_output", "held_tokens", "checkpoint_input", "checkpoint_output"),
    *("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "cost_tokens"),
    *("created_ms", "lease_ms", "closed_ms"),
)
_CHARGE_VALUES = (
    *("query", "openai", "bench", ChargeState.SETTLED.value, Basis.PROVIDER.value, EntryKind.SETTLE.value),
    *(1_000, INPUT_TOKENS, HELD_TOKENS - INPUT_TOKENS, HELD_TOKENS, INPUT_TOKENS, OUTPUT_TOKENS),
    *(INPUT_TOKENS, 0, 0, OUTPUT_TOKENS, COST_TOKENS),
)
"""All columns between the owner and the times."""


def _ids(size: LedgerSize, first_ms: int, end_ms: int) -> Iterator[tuple[int, int, str, int]]:
    """Number, time, id and user of each charge. A second pass yields the same."""
    bits = random.Random(1)
    for number in range(size.charges):
        at_ms = first_ms + 1 + number * (end_ms - first_ms - 1) // size.charges
        yield number, at_ms, f"chg_{at_ms << 80 | bits.getrandbits(80):032x}", number % size.users + 1


def _charges(size: LedgerSize, first_ms: int, end_ms: int) -> Iterator[Row]:
    for _, at_ms, charge_id, user in _ids(size, first_ms, end_ms):
        owner = charge_id, tenant_of(user), month_of(charge_id), user
        yield *owner, *_CHARGE_VALUES, at_ms, at_ms + 60_000, at_ms


_ENTRY_COLUMNS = (
    *("tenant_id", "window_id", "sequence", "month", "source_id", "kind"),
    *("granted", "settled", "pending", "forgiven", "at_ms"),
)


def _entries(size: LedgerSize, first_ms: int, end_ms: int) -> Iterator[Row]:
    for window, (tenant, _, _) in enumerate(_owners(size), 1):
        source_id = f"win_{first_ms << 80 | window:032x}"
        yield tenant, window, 1, month_of(source_id), source_id, EntryKind.OPEN.value, LIMIT, 0, 0, 0, first_ms
    for number, at_ms, charge_id, user in _ids(size, first_ms, end_ms):
        tenant, month = tenant_of(user), month_of(charge_id)
        mates = size.users_of(tenant)
        earlier = number // size.users
        places = (user, earlier), (size.users + tenant, earlier * len(mates) + user - mates[0])
        for window, rank in places:
            key = tenant, window, 2 * rank + 2, month, charge_id
            yield *key, EntryKind.RESERVE.value, 0, 0, HELD_TOKENS, 0, at_ms
        for window, rank in places:
            key = tenant, window, 2 * rank + 3, month, charge_id
            yield *key, EntryKind.SETTLE.value, 0, COST_TOKENS, -HELD_TOKENS, 0, at_ms
