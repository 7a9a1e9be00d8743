"""Snapshots of the ledger's tables, each read in one transaction, and the invariants of every snapshot.

Written from the promises alone: it knows the tables, and nothing of the code that fills them.
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import asyncpg

PERIODS = ("minute", "hour", "day", "week", "month", "total")
CLOSING = {"settle", "release", "expire"}


class Quota(NamedTuple):
    id: int
    tenant_id: int
    user_id: int | None
    unit: str
    period: str
    granted: int
    report_only: bool
    kind: str
    subject: str
    fallback_model: str | None
    overrides_end_ms: int | None
    rollover_cap: int | None
    removed_ms: int | None


class Window(NamedTuple):
    id: int
    tenant_id: int
    quota_id: int
    starts_ms: int
    ends_ms: int | None
    granted: int
    settled: int
    pending: int
    forgiven: int
    sequence: int
    report_only: bool
    override: int | None
    due_ms: int | None
    rolled: int
    value: str
    base: int | None


class Entry(NamedTuple):
    window_id: int
    sequence: int
    tenant_id: int
    month: int
    source_id: str
    kind: str
    granted: int
    settled: int
    pending: int
    forgiven: int
    at_ms: int


class Charge(NamedTuple):
    id: str
    tenant_id: int
    month: int
    user_id: int
    state: str
    basis: str | None
    closed_by: str | None
    granted_output: int
    held_tokens: int
    held_micro_usd: int | None
    checkpoint_input: int
    checkpoint_output: int
    input_tokens: int | None
    output_tokens: int | None
    cost_tokens: int
    cost_micro_usd: int | None
    forgiven_tokens: int
    forgiven_micro_usd: int | None
    overrun: bool
    adjusted: bool
    refunded: bool
    lease_ms: int
    closed_ms: int | None
    key_id: str | None
    group_id: int | None
    conversation: str | None
    tags: str | None

    @property
    def all_tags(self) -> list[str]:
        return [f"{name}={value}" for name, value in json.loads(self.tags or "{}").items()]

    def held(self, unit: str) -> int:
        amounts = {"tokens": self.held_tokens, "micro_usd": self.held_micro_usd or 0, "requests": 1, "concurrency": 1}
        return amounts[unit]

    def cost(self, unit: str) -> int:
        is_billed = self.refunded or self.basis not in (None, "none")
        amounts = {"tokens": self.cost_tokens, "micro_usd": self.cost_micro_usd or 0, "requests": int(is_billed)}
        return amounts.get(unit, 0)


class Key(NamedTuple):
    tenant_id: int
    user_id: int
    key: str
    charge_id: str
    fingerprint: str
    created_ms: int
    status: int | None
    content_type: str | None
    body: bytes | None


class Snapshot(NamedTuple):
    """The tables of some tenants; entries by window, in order of sequence."""

    quotas: dict[int, Quota]
    windows: dict[int, Window]
    entries: dict[int, list[Entry]]
    charges: dict[str, Charge]
    keys: dict[tuple[int, str], Key]

    def quota_of(self, window_id: int) -> Quota:
        return self.quotas[self.windows[window_id].quota_id]


class Reader(Protocol):
    """A connection of its own, beside the ledger's."""

    async def read(self, *queries: str) -> list[list[Any]]:
        """The rows of several queries, all as of one moment."""
        ...

    async def execute(self, statement: str) -> None: ...

    async def close(self) -> None: ...


class SqliteReader:
    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, timeout=10, isolation_level=None)

    async def read(self, *queries: str) -> list[list[Any]]:
        self._connection.execute("BEGIN")
        try:
            return [self._connection.execute(query).fetchall() for query in queries]
        finally:
            self._connection.execute("ROLLBACK")

    async def execute(self, statement: str) -> None:
        with closing(self._connection.execute(statement)) as cursor:
            cursor.fetchall()

    async def close(self) -> None:
        self._connection.close()


class PostgresReader:
    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._connection = connection

    async def read(self, *queries: str) -> list[list[Any]]:
        async with self._connection.transaction(isolation="repeatable_read", readonly=True):
            return [list(map(tuple, await self._connection.fetch(query))) for query in queries]

    async def execute(self, statement: str) -> None:
        await self._connection.execute(statement)

    async def close(self) -> None:
        await self._connection.close()


async def make_reader(database_url: str) -> Reader:
    if database_url.startswith("sqlite:///"):
        return SqliteReader(database_url.removeprefix("sqlite:///"))
    return PostgresReader(await asyncpg.connect(database_url))


async def read_snapshot(reader: Reader, tenant_ids: Iterable[int] | None = None) -> Snapshot:
    """Everything, or what belongs to some tenants."""
    mine = "" if tenant_ids is None else f"WHERE tenant_id IN ({', '.join(map(str, tenant_ids))})"
    windows = f"SELECT id FROM windows WHERE quota_id IN (SELECT id FROM quotas {mine})"
    users = "" if tenant_ids is None else f"WHERE user_id IN (SELECT id FROM users {mine})"
    quotas, lines, entries, charges, keys = await reader.read(
        f"SELECT {', '.join(Quota._fields)} FROM quotas {mine}",
        f"SELECT {', '.join(Window._fields)} FROM windows WHERE id IN ({windows})",
        f"SELECT {', '.join(Entry._fields)} FROM entries WHERE window_id IN ({windows}) ORDER BY window_id, sequence",
        f"SELECT {', '.join(Charge._fields)} FROM charges {mine}",
        f"SELECT {', '.join(Key._fields)} FROM idempotency_keys {users}",
    )
    by_window: dict[int, list[Entry]] = defaultdict(list)
    for row in entries:
        by_window[row[0]].append(Entry(*row))
    return Snapshot(
        {row[0]: Quota(*row) for row in quotas},
        {row[0]: Window(*row) for row in lines},
        by_window,
        {row[0]: Charge(*row) for row in charges},
        {(row[1], row[2]): Key(*row) for row in keys},
    )


def audit(snapshot: Snapshot) -> None:
    """Assert every invariant that can be checked with the tables alone."""
    for window in snapshot.windows.values():
        check_balances(window, snapshot.entries[window.id])
    check_no_overlap(snapshot)
    check_never_over(snapshot)
    check_charges(snapshot)
    check_forgiveness(snapshot)
    check_keys(snapshot)
    check_places(snapshot)


def check_balances(window: Window, entries: list[Entry]) -> None:
    """P4: each balance is the sum of its entries, whose sequence has no gap."""
    assert [entry.sequence for entry in entries] == list(range(1, window.sequence + 1)), f"a gap in {window}"
    assert [entry.kind for entry in entries].count("open") == 1
    assert entries[0].kind == "open"
    for name in ("granted", "settled", "pending", "forgiven"):
        total = sum(getattr(entry, name) for entry in entries)
        assert getattr(window, name) == total, f"{name} of {window} is not the sum of its entries, {total}"


def check_no_overlap(snapshot: Snapshot) -> None:
    """P9: a moment is in at most one window of a quota, whatever became of the calendar."""
    ordered = sorted(snapshot.windows.values(), key=lambda window: (window.quota_id, window.value, window.starts_ms))
    for one, two in pairwise(ordered):
        if (one.quota_id, one.value) == (two.quota_id, two.value):
            assert one.ends_ms is not None, f"{one} has no end, and {two} begins"
            assert one.ends_ms <= two.starts_ms, f"{one} overlaps {two}"


def running(entries: list[Entry]) -> Iterator[tuple[Entry, Entry]]:
    """Each entry with the sums up to and including it."""
    granted = settled = pending = forgiven = 0
    for entry in entries:
        granted, settled = granted + entry.granted, settled + entry.settled
        pending, forgiven = pending + entry.pending, forgiven + entry.forgiven
        yield entry, entry._replace(granted=granted, settled=settled, pending=pending, forgiven=forgiven)


def check_never_over(snapshot: Snapshot) -> None:
    """P1: no reserve ever left settled + pending above granted, but in a window that only reports by then."""
    for window_id, entries in snapshot.entries.items():
        only_reports = False
        for entry, after in running(entries):
            if entry.kind in ("report", "block"):
                only_reports = entry.kind == "report"
            if entry.kind == "reserve" and not only_reports:
                over = after.settled + after.pending - after.granted
                assert over <= 0, f"admitted {over} over: {entry} in {snapshot.windows[window_id]}"
        assert bool(snapshot.windows[window_id].report_only) == only_reports


def check_charges(snapshot: Snapshot) -> None:
    """P3: held in each of its windows while open; one end, at most one late truth, and the cost where it belongs."""
    lines: dict[str, dict[int, dict[str, Entry]]] = defaultdict(lambda: defaultdict(dict))
    held: dict[int, int] = defaultdict(int)
    for window_id, entries in snapshot.entries.items():
        for entry in entries:
            if entry.source_id in snapshot.charges:
                kinds = lines[entry.source_id][window_id]
                assert entry.kind not in kinds, f"{entry.kind} twice for {entry.source_id}"
                kinds[entry.kind] = entry
    for charge in snapshot.charges.values():
        assert (charge.closed_ms is None) == (charge.state in {"reserved", "dispatched"}), charge
        assert lines[charge.id] or charge.basis == "cache", f"{charge} has no entries"
        if charge.basis == "cache":
            assert {snapshot.quota_of(window_id).unit for window_id in lines[charge.id]} <= {"requests"}
            assert (charge.state, charge.held_tokens, charge.cost_tokens) == ("settled", 0, 0), charge
        for window_id, kinds in lines[charge.id].items():
            quota = snapshot.quota_of(window_id)
            unit = quota.unit
            assert quota.user_id in (None, charge.user_id), f"{charge} holds on the quota of another user"
            assert quota.kind != "group" or quota.subject == str(charge.group_id), f"{charge} holds on another group"
            is_tagged = quota.kind != "tag" or quota.subject in charge.all_tags
            assert is_tagged, f"{charge} holds on the quota of a tag that it does not have"
            assert quota.kind != "key" or quota.subject == charge.key_id, f"{charge} holds on the quota of another key"
            values = {
                "each_user": str(charge.user_id),
                "each_key": charge.key_id,
                "each_conversation": charge.conversation,
                "each_tag": next((tag for tag in charge.all_tags if tag.startswith(f"{quota.subject}=")), None),
            }
            assert snapshot.windows[window_id].value == values.get(quota.kind, ""), f"{charge} holds on another value"
            assert kinds["reserve"].pending == charge.held(unit)
            ends = CLOSING & kinds.keys()
            if charge.closed_ms is None:
                assert kinds.keys() == {"reserve"}, f"{charge} is open and has {sorted(kinds)}"
                held[window_id] += charge.held(unit)
                continue
            assert ends == {charge.closed_by}, f"{charge} ended by {sorted(ends)}"
            assert sum(entry.pending for entry in kinds.values()) == 0
            assert ("adjust" in kinds) == charge.adjusted
            assert ("refund" in kinds) == charge.refunded
            assert not charge.adjusted or charge.closed_by == "expire"
            paid = sum(entry.settled for entry in kinds.values())
            assert paid == (0 if charge.refunded else charge.cost(unit)), f"{charge} paid {paid} in window {window_id}"
    for window in snapshot.windows.values():
        assert window.pending == held[window.id], (
            f"{window} does not hold what its open charges hold, {held[window.id]}"
        )


def check_places(snapshot: Snapshot) -> None:
    """Each row is in the tenant of its quota or charge, and in the month of the id that it is about."""
    for window in snapshot.windows.values():
        assert window.tenant_id == snapshot.quotas[window.quota_id].tenant_id, window
        for entry in snapshot.entries[window.id]:
            assert (entry.tenant_id, entry.month) == (window.tenant_id, calendar_month(entry.source_id)), entry
            charge = snapshot.charges.get(entry.source_id)
            assert charge is None or (charge.tenant_id, charge.month) == (entry.tenant_id, entry.month), entry
    for charge in snapshot.charges.values():
        assert charge.month == calendar_month(charge.id), charge
    for key in snapshot.keys.values():
        assert key.tenant_id == snapshot.charges[key.charge_id].tenant_id, key


def calendar_month(time_sorted_id: str) -> int:
    """The UTC month of an id's first 48 bits, which are milliseconds, as a number such as 202706."""
    ms = int(time_sorted_id.partition("_")[2][:12], 16)
    return int((datetime(1970, 1, 1) + timedelta(milliseconds=ms)).strftime("%Y%m"))  # noqa: DTZ001


def check_forgiveness(snapshot: Snapshot) -> None:
    """What a living process forgave stays within 5 % of the grant of the user's shortest window, but for one call."""
    shortest: dict[int, int] = {}
    for quota in snapshot.quotas.values():
        if quota.user_id is not None and quota.kind == "user" and quota.unit == "tokens":
            rank = PERIODS.index(quota.period)
            shortest[quota.user_id] = min(rank, shortest.get(quota.user_id, rank))
    for window_id, entries in snapshot.entries.items():
        quota = snapshot.quota_of(window_id)
        if (
            quota.user_id is None
            or quota.kind != "user"
            or quota.unit != "tokens"
            or PERIODS.index(quota.period) != shortest[quota.user_id]
        ):
            continue
        for entry, after in running(entries):
            if entry.kind == "settle" and 0 < entry.forgiven < after.forgiven:
                assert after.forgiven * 100 <= after.granted * 5, f"{entry} forgives beyond the cap: {after}"


def check_keys(snapshot: Snapshot) -> None:
    """P6: a key stands for a call of its own user's, and for an answer only when that has ended."""
    for key in snapshot.keys.values():
        charge = snapshot.charges[key.charge_id]
        assert charge.user_id == key.user_id
        assert charge.basis != "cache", f"{key} stands for a charge that only repeats another"
        assert (key.status is None) == (key.body is None) == (key.content_type is None)
        assert key.status is None or charge.closed_ms is not None, f"{key} has an answer, and {charge} is open"
