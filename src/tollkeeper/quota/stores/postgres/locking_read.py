"""The statement that locks and reads the rows of a batch on PostgreSQL: charges, then what they hold, then windows.

`SELECT … FOR UPDATE` of one row returns it as it is when its lock is granted (PostgreSQL manual, 13.2.1 Read Committed
Isolation Level). The rest is read as it was when the statement began, before it waited for a lock:

- What a charge holds does not change while the charge is open: its entries are inserted with it, and the next are those
  that close it. A closed charge holds nothing; only its windows matter, and these never change.
- The idempotency keys, which the batch has locked by an earlier statement.
- The policy versions. A change of accounts that commits while the statement waits counts for the next batch.

Each step reads the complete result of the step before, so locks are taken in the ledger's order. Rows are found by
their whole keys, and locked in the order of the keys: a `LATERAL` query, which reads one row by the index, is run for
one key after the other. PostgreSQL cannot turn it into another kind of join, which would read the whole table.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import cache
from itertools import count, islice
from typing import Any, NamedTuple

from tollkeeper.quota.rules.charge_row import CHARGE_COLUMNS, ChargeRow
from tollkeeper.quota.rules.idempotency_keys import KeyName, KeyRow
from tollkeeper.quota.stores.postgres.connection import NOW_MS, Connection
from tollkeeper.quota.stores.postgres.idempotency_keys import FOUND_KEYS, key_row
from tollkeeper.quota.stores.postgres.wanted_charges import WANTED_CHARGES, charge_keys, only_month
from tollkeeper.quota.stores.rows import WINDOW_COLUMNS
from tollkeeper.quota.time_sorted_ids import month_of

_CHARGE = (
    f"charge AS MATERIALIZED (SELECT found.* FROM {WANTED_CHARGES}, LATERAL (SELECT {', '.join(CHARGE_COLUMNS)}"
    " FROM charges WHERE tenant_id = wanted.tenant_id AND month = {month} AND id = wanted.id FOR UPDATE) AS found)"
)
_HOLD = (
    "hold AS MATERIALIZED (SELECT charge.id, charge.tenant_id, held.window_id, held.pending FROM charge, LATERAL"
    " (SELECT window_id, pending FROM entries WHERE tenant_id = charge.tenant_id AND source_id = charge.id"
    " AND month = {month} ORDER BY kind) AS held)"
)
"""The order is that of the index of sources. Else the planner may find the primary key as good without statistics, and
read all entries of the tenant by it.
"""
_GUESSED_WINDOWS = "SELECT * FROM unnest({}::integer[], {}::bigint[]) AS guessed (tenant_id, window_id)"
_WINDOW = (
    "SELECT 'window', found FROM wanted_window, LATERAL"
    f" (SELECT {WINDOW_COLUMNS} FROM windows"
    " WHERE tenant_id = wanted_window.tenant_id AND id = wanted_window.window_id FOR UPDATE) AS found"
)
_POLICY = "SELECT 'policy', ROW(tenant_id, version) FROM policy WHERE tenant_id = ANY({}::integer[])"
_CLOCK = "SELECT 'clock', ROW({}, pg_postmaster_start_time())"


class Found(NamedTuple):
    """What the statement found. A hold is charge id, window id and pending; a window row is as `window_row` takes it.

    `windows` is None if they were not wanted. There is no row of a wanted window that does not exist.
    """

    now_ms: int
    server_started: datetime
    versions: dict[int, int]
    charges: dict[str, ChargeRow]
    keys: dict[KeyName, KeyRow]
    holds: list[tuple[str, int, int]]
    windows: list[Sequence[Any]] | None


async def lock_and_read(
    connection: Connection,
    injected_ms: int | None,
    tenants: Collection[int],
    charges: Mapping[str, int],
    names: Collection[KeyName],
    guessed: Mapping[int, int] | None,
) -> Found:
    """Lock and read charges (id → tenant id); read keys, which are locked already, and the policy versions of tenants.

    Unless `guessed` is None, the windows that the charges hold in and these (id → tenant id) are locked and read, too.
    """
    values: list[object] = [*charge_keys(charges)] if charges else []
    if names:
        values += zip(*names, strict=True)
    if guessed is not None:
        values += [list(guessed.values()), list(guessed)]
    month = only_month(map(month_of, charges))
    statement = _statement(bool(charges), bool(names), guessed is not None, month)
    rows = await connection.fetch(statement, *values, injected_ms, sorted(tenants))
    found: dict[str, list[Sequence[Any]]] = {
        kind: [] for kind in ("charge", "hold", "key", "window", "policy", "clock")
    }
    for kind, row in rows:
        found[kind].append(row)
    [(now_ms, server_started)] = found["clock"]
    pending: dict[tuple[str, int], int] = {}
    for charge_id, _, window_id, amount in found["hold"]:
        pending[charge_id, window_id] = pending.get((charge_id, window_id), 0) + amount
    return Found(
        now_ms,
        server_started,
        {row[0]: row[1] for row in found["policy"]},
        {row[0]: ChargeRow(*row) for row in found["charge"]},
        {row.name: row for row in map(key_row, found["key"])},
        [(*place, amount) for place, amount in pending.items()],
        found["window"] if guessed is not None else None,
    )


@cache
def _statement(with_charges: bool, with_keys: bool, with_windows: bool, month: int | None) -> str:
    """The statement for what a batch needs. Its parameters: charges, keys, guessed windows, time, tenants.

    `month` is that of all charges.
    """
    ctes, results, held = [], [], ""
    numbers = (f"${number}" for number in count(4 if with_charges else 1))
    if with_charges:
        ctes = [_CHARGE.format(month=month or "wanted.month"), _HOLD.format(month=month or "charge.month")]
        results = ["SELECT 'charge', charge FROM charge", "SELECT 'hold', hold FROM hold"]
        held = "SELECT tenant_id, window_id FROM hold UNION "
    if with_keys:
        results.append(FOUND_KEYS.format(*islice(numbers, 3)))
    if with_windows:
        guessed = _GUESSED_WINDOWS.format(*islice(numbers, 2))
        ctes.append(f"wanted_window AS MATERIALIZED ({held}{guessed} ORDER BY window_id)")
        results.append(_WINDOW)
    now = NOW_MS.replace("$1", next(numbers))
    results += [_POLICY.format(next(numbers)), _CLOCK.format(now)]
    return (f"WITH {', '.join(ctes)} " if ctes else "") + " UNION ALL ".join(results)
