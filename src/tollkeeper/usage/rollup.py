"""Keeps the roll-ups: computes the sums of each bucket anew in which a closed charge was changed.

The ledger notes each change in the transaction that makes it. So a note that is visible here has its change visible,
too; a change that is not yet visible is noted for the next run, whenever it is committed. A run reads the notes first,
then the charges, and deletes the notes that it has read in the transaction that writes the last of the sums. A revision
makes sure that no other run has changed the sums meanwhile.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import bindparam, text

from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.quota.time_sorted_ids import USAGE_BUCKET_MS, month_of, usage_bucket_of
from tollkeeper.usage.buckets import (
    MEASURES,
    Cell,
    DayKey,
    Sums,
    add_to_days,
    differences,
    first_id,
)

NOTES_PER_STATEMENT = 5_000
MAX_NOTES = 20_000
"""Notes that are read before their buckets are computed: a busy bucket is computed once for so many calls."""
BUCKETS_PER_READ = 25
"""Buckets whose charges are read before their sums are written."""
CELLS_PER_TRANSACTION = 500
MAX_TRIES = 100
"""How often a run begins again after another process has changed the sums meanwhile."""

_KEY = ", ".join(Cell._fields)
_SUMS = ", ".join(MEASURES)
_STATE = text("SELECT revision, rolled_ms FROM usage_rollup_state")
_LAST_NOTE = text("SELECT coalesce(max(id), 0) FROM usage_changes")
_NOTES = text(
    "SELECT id, tenant_id, charge_id FROM usage_changes WHERE id > :after AND id <= :until ORDER BY id LIMIT :most"
)
_WAITING = text("SELECT 1 FROM usage_changes WHERE charge_id < :before LIMIT 1")
_AMOUNTS = {
    "calls": "CASE WHEN state = 'settled' AND basis <> 'cache' THEN 1 ELSE 0 END",
    "cached_calls": "CASE WHEN basis = 'cache' THEN 1 ELSE 0 END",
    "failed_calls": "CASE WHEN state = 'released' THEN 1 ELSE 0 END",
    "refunded_tokens": "CASE WHEN refunded THEN cost_tokens ELSE 0 END",
    "refunded_micro_usd": "CASE WHEN refunded THEN coalesce(cost_micro_usd, 0) ELSE 0 END",
}
"""How amounts are computed that are no columns of a charge."""
_COUNTED = ", ".join(f"CAST(sum({_AMOUNTS.get(name, f'coalesce({name}, 0)')}) AS bigint)" for name in MEASURES)
_CHARGES = text(
    "SELECT user_id, coalesce(key_id, ''), coalesce(group_id, 0), provider, model, surface, coalesce(tags, ''),"
    f" {_COUNTED} FROM charges WHERE tenant_id = :tenant_id AND month = :month AND id >= :first AND id < :after"
    " AND closed_ms IS NOT NULL GROUP BY 1, 2, 3, 4, 5, 6, 7"
)
_STORED = text(
    f"SELECT number, {_KEY}, {_SUMS} FROM usage_buckets WHERE tenant_id = :tenant_id AND bucket_ms = :bucket_ms"
)
_CLAIM = text(
    "UPDATE usage_rollup_state SET revision = revision + 1, rolled_ms = :now_ms WHERE id = 1 AND revision = :revision"
)
_NEXT_SUMS = ", ".join(f"{name} = excluded.{name}" for name in MEASURES)
_WRITE_BUCKET = text(
    f"INSERT INTO usage_buckets (tenant_id, bucket_ms, number, {_KEY}, {_SUMS})"
    f" VALUES (:tenant_id, :bucket_ms, :number, {', '.join(f':{name}' for name in (*Cell._fields, *MEASURES))})"
    f" ON CONFLICT (tenant_id, bucket_ms, number) DO UPDATE SET {_NEXT_SUMS}"
)
_ADD_TO_DAY = text(
    f"INSERT INTO usage_days (tenant_id, {', '.join(DayKey._fields)}, {_SUMS}) VALUES (:tenant_id,"
    f" {', '.join(f':{name}' for name in (*DayKey._fields, *MEASURES))})"
    f" ON CONFLICT (tenant_id, {', '.join(DayKey._fields)})"
    f" DO UPDATE SET {', '.join(f'{name} = usage_days.{name} + excluded.{name}' for name in MEASURES)}"
)
_FORGET = text("DELETE FROM usage_changes WHERE id IN :ids").bindparams(bindparam("ids", expanding=True))


class _Change(NamedTuple):
    """The new sums of a cell of a bucket, and by how much they differ from the stored ones."""

    tenant_id: int
    bucket_ms: int
    number: int
    cell: Cell
    now: Sums
    more: Sums

    def as_row(self) -> dict[str, Any]:
        """The row of `usage_buckets`."""
        place = {"tenant_id": self.tenant_id, "bucket_ms": self.bucket_ms, "number": self.number}
        return place | self.cell._asdict() | dict(zip(MEASURES, self.now, strict=True))


@dataclass(slots=True)
class _Bucket:
    """The notes of one bucket, and what is to be written."""

    tenant_id: int
    bucket_ms: int
    notes: list[int] = field(default_factory=list)
    changes: list[_Change] = field(default_factory=list)


class UsageRollup:
    """The roll-ups of one database. Any number of processes may run them."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def run(self, *, unless_since_ms: int = 0) -> int:
        """Compute the sums of every bucket with a change that is noted so far. Returns how many buckets that were.

        Changes that are noted meanwhile are left to the next run: under load there is no end of them. If another
        process has begun a run less than `unless_since_ms` ago, nothing is done. Raises DatabaseUnavailable.
        """
        done = tries = 0
        last_note = await self._last_note()
        while True:
            state, notes = await self._read_notes(last_note)
            is_recent = not done and not 0 <= state[1] <= self._clock.now_ms() - unless_since_ms
            if not notes or (unless_since_ms and is_recent):
                return done
            buckets = await asyncio.to_thread(_grouped, notes)
            for bucket in buckets:
                await self._compute(bucket)
            if await self._write(buckets, state[0]):
                done += len(buckets)
                continue
            tries += 1
            if unless_since_ms or tries == MAX_TRIES:
                return done
            await asyncio.sleep(0.01 * tries)

    async def has_counted_until(self, at_ms: int) -> bool:
        """Whether the sums have every closed charge that was made before this time. Raises DatabaseUnavailable."""
        async with self._database.session() as session:
            connection = await session.connection()
            return (await connection.execute(_WAITING, {"before": first_id(at_ms)})).first() is None

    async def _last_note(self) -> int:
        async with self._database.session() as session:
            connection = await session.connection()
            return int((await connection.execute(_LAST_NOTE)).scalar_one())

    async def _read_notes(self, until: int) -> tuple[tuple[int, int], Sequence[Any]]:
        """The state, and after it the oldest notes up to this one."""
        notes, after = list[Any](), 0
        async with self._database.session() as session:
            connection = await session.connection()
            revision, rolled_ms = (await connection.execute(_STATE)).one()
            while len(notes) < MAX_NOTES:
                place = {"after": after, "until": until, "most": NOTES_PER_STATEMENT}
                some = (await connection.execute(_NOTES, place)).all()
                notes += some
                if len(some) < NOTES_PER_STATEMENT:
                    break
                after = some[-1].id
        return (revision, rolled_ms), notes

    async def _compute(self, bucket: _Bucket) -> None:
        """Read the charges of a bucket and its stored sums, and compare them."""
        first = first_id(bucket.bucket_ms)
        ids = {"month": month_of(first), "first": first, "after": first_id(bucket.bucket_ms + USAGE_BUCKET_MS)}
        place = {"tenant_id": bucket.tenant_id, "bucket_ms": bucket.bucket_ms}
        async with self._database.session() as session:
            connection = await session.connection()
            charges = (await connection.execute(_CHARGES, {"tenant_id": bucket.tenant_id, **ids})).all()
            stored = (await connection.execute(_STORED, place)).all()
        await asyncio.to_thread(_compare, bucket, charges, stored)

    async def _write(self, buckets: Sequence[_Bucket], revision: int) -> bool:
        """Write the sums, a few in each transaction, so that no call waits long for one; the last deletes the notes.
        Returns False if another run has changed the sums since `revision`: then the notes stay.
        """
        changes = [change for bucket in buckets for change in bucket.changes]
        notes = [note for bucket in buckets for note in bucket.notes]
        for first in range(0, max(1, len(changes)), CELLS_PER_TRANSACTION):
            some = changes[first : first + CELLS_PER_TRANSACTION]
            is_last = first + CELLS_PER_TRANSACTION >= len(changes)
            if not await self._write_some(some, revision, notes if is_last else []):
                return False
            revision += 1
            await asyncio.sleep(0)
        return True

    async def _write_some(self, changes: Sequence[_Change], revision: int, notes: Sequence[int]) -> bool:
        days: dict[int, dict[DayKey, Sums]] = {}
        for change in changes:
            add_to_days(days.setdefault(change.tenant_id, {}), change.bucket_ms, change.cell, change.more)
        async with self._database.session() as session:
            connection = await session.connection()
            claimed = await connection.execute(_CLAIM, {"revision": revision, "now_ms": self._clock.now_ms()})
            if claimed.rowcount == 0:
                return False
            if changes:
                await connection.execute(_WRITE_BUCKET, [change.as_row() for change in changes])
                rows = [_day_row(tenant_id, key, more) for tenant_id, of in days.items() for key, more in of.items()]
                await connection.execute(_ADD_TO_DAY, rows)
            for first in range(0, len(notes), NOTES_PER_STATEMENT):
                await connection.execute(_FORGET, {"ids": notes[first : first + NOTES_PER_STATEMENT]})
        return True


def _grouped(notes: Sequence[Any]) -> list[_Bucket]:
    """The first buckets of these notes. A bucket's further notes, which are not among these, stay for the next run."""
    buckets: dict[tuple[int, int], _Bucket] = {}
    for note, tenant_id, charge_id in notes:
        place = tenant_id, usage_bucket_of(charge_id)
        if place not in buckets and len(buckets) == BUCKETS_PER_READ:
            continue
        buckets.setdefault(place, _Bucket(*place)).notes.append(note)
    return list(buckets.values())


def _compare(bucket: _Bucket, charges: Sequence[Any], stored: Sequence[Any]) -> None:
    """Fill in what is to be written."""
    width = len(Cell._fields)
    counted = {Cell(*row[:width]): tuple(row[width:]) for row in charges}
    before = {Cell(*row[1 : width + 1]): tuple(row[width + 1 :]) for row in stored}
    numbers = {Cell(*row[1 : width + 1]): row[0] for row in stored}
    following = max(numbers.values(), default=0) + 1
    for cell, (now, more) in differences(counted, before).items():
        if cell not in numbers:
            numbers[cell], following = following, following + 1
        bucket.changes.append(_Change(bucket.tenant_id, bucket.bucket_ms, numbers[cell], cell, now, more))


def _day_row(tenant_id: int, key: DayKey, more: Sums) -> dict[str, Any]:
    return {"tenant_id": tenant_id} | key._asdict() | dict(zip(MEASURES, more, strict=True))
