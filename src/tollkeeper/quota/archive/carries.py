"""Reads and writes the carries of windows."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import bindparam, text
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.database.engine import Database
from tollkeeper.quota.archive.registry import Months
from tollkeeper.quota.audit.cut import WholeWindows
from tollkeeper.quota.audit.facts import Key
from tollkeeper.quota.audit.reading import read
from tollkeeper.quota.partition_months import end_of
from tollkeeper.quota.rules.carry import Carry, read_carry, sequence_of
from tollkeeper.quota.rules.models import EntryKind
from tollkeeper.quota.time_sorted_ids import month_of

ACTOR = "archive"
_WINDOWS = text(
    "SELECT tenant_id, id, ends_ms, sequence FROM windows WHERE tenant_id IN :tenants AND id IN :windows"
).bindparams(bindparam("tenants", expanding=True), bindparam("windows", expanding=True))
_CARRIES = text(
    "SELECT tenant_id, window_id, sequence, month, granted, settled, pending, forgiven, reason FROM entries"
    " WHERE tenant_id IN :tenants AND window_id IN :windows AND sequence < 0 ORDER BY sequence"
).bindparams(bindparam("tenants", expanding=True), bindparam("windows", expanding=True))
_DELETE = text(
    "DELETE FROM entries WHERE tenant_id = :tenant_id AND window_id = :window_id AND sequence = :sequence"
    " AND month = :month"
)
_INSERT = text(
    "INSERT INTO entries (tenant_id, window_id, sequence, month, source_id, kind, granted, settled, pending, forgiven,"
    " at_ms, actor, reason) VALUES (:tenant_id, :window_id, :sequence, :month, :source_id, :kind, :granted, :settled,"
    " :pending, :forgiven, :at_ms, :actor, :reason)"
)


class WindowToCarry(NamedTuple):
    """A window with entries to archive.

    `carry` is what older archives left of it. `stale` are the carries that no longer count: sequence and month of each.
    """

    key: Key
    ends_ms: int | None
    sequence: int
    carry: Carry
    stale: tuple[tuple[int, int], ...]

    def is_whole(self, carry: Carry, months: Months) -> bool:
        """Whether it needs no carry, because it has ended, and all its entries are archived."""
        return self.ends_ms is not None and self.ends_ms <= end_of(months.month) and carry.entries == self.sequence


async def find_windows(database: Database, keys: Iterable[Key], cut: int) -> dict[Key, WindowToCarry]:
    """The windows with these keys; `cut` is the last month that is archived already. Raises DatabaseUnavailable."""
    wanted = set(keys)
    if not wanted:
        return {}
    places = {
        "tenants": sorted({tenant_id for tenant_id, _ in wanted}),
        "windows": sorted({window_id for _, window_id in wanted}),
    }
    carries: dict[Key, list[tuple[int, int, Carry]]] = {}
    for tenant_id, window_id, sequence, month, *sums, reason in map(tuple, await read(database, _CARRIES, **places)):
        found = read_carry((sums[0], sums[1], sums[2], sums[3]), reason)
        carries.setdefault((tenant_id, window_id), []).append((sequence, month, found))
    windows = {}
    for tenant_id, window_id, ends_ms, last in map(tuple, await read(database, _WINDOWS, **places)):
        key = (tenant_id, window_id)
        counting = [carry for carry in carries.get(key, ()) if carry[0] >= sequence_of(cut)]
        newest = counting[0] if counting else None
        stale = tuple(carry[:2] for carry in carries.get(key, ()) if carry is not newest)
        windows[key] = WindowToCarry(key, ends_ms, last, newest[2] if newest else Carry(), stale)
    return windows


async def write_carries(
    session: AsyncSession, carries: Mapping[WindowToCarry, Carry], months: Months, source_id: str, now_ms: int
) -> WholeWindows:
    """Write the carries that will count when the months are archived. Returns the windows that need none."""
    whole, deleted, inserted = WholeWindows(), list[dict[str, Any]](), list[dict[str, Any]]()
    for window, carry in carries.items():
        place = {"tenant_id": window.key[0], "window_id": window.key[1]}
        deleted += [place | {"sequence": sequence, "month": month} for sequence, month in window.stale]
        if window.is_whole(carry, months):
            whole = whole.plus((1, carry.entries, *carry.sums))
            continue
        amounts = dict(zip(("granted", "settled", "pending", "forgiven"), carry.sums, strict=True))
        row = {"sequence": sequence_of(months.month), "month": month_of(source_id), "source_id": source_id}
        row |= {"kind": EntryKind.CARRY.value, "at_ms": now_ms, "actor": ACTOR, "reason": carry.reason}
        inserted.append(place | row | amounts)
    connection = await session.connection()
    if deleted:
        await connection.execute(_DELETE, deleted)
    if inserted:
        await connection.execute(_INSERT, inserted)
    return whole
