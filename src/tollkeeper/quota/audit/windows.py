"""Recomputes the balances of every window from its entries."""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from itertools import product
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import text

from tollkeeper.db import Database
from tollkeeper.quota.audit.facts import NEW_WINDOW, Key, WindowState
from tollkeeper.quota.audit.problems import Fault, Problem
from tollkeeper.quota.audit.reading import BEFORE_ALL_TENANTS, read
from tollkeeper.quota.audit.report import AuditReport
from tollkeeper.quota.rules.models import EntryKind
from tollkeeper.quota.time_sorted_ids import CHARGE_PREFIX, month_of

BALANCES = ("granted", "settled", "pending", "forgiven")
CHARGE_KINDS = frozenset(set(EntryKind) - {EntryKind.OPEN, EntryKind.LIMIT, EntryKind.GRANT})
"""The kinds of entries that belong to a charge."""
CHANGEABLE_BALANCES: dict[str, frozenset[str]] = {
    EntryKind.OPEN: frozenset({"granted"}),
    EntryKind.LIMIT: frozenset({"granted"}),
    EntryKind.GRANT: frozenset({"granted"}),
    EntryKind.REFUND: frozenset({"settled"}),
    EntryKind.RESERVE: frozenset({"pending"}),
    EntryKind.SETTLE: frozenset({"settled", "pending", "forgiven"}),
    EntryKind.RELEASE: frozenset({"pending"}),
    EntryKind.EXPIRE: frozenset({"settled", "pending", "forgiven"}),
    EntryKind.ADJUST: frozenset({"settled", "forgiven"}),
}
"""The balances that each kind of entry may change."""
_OPEN = EntryKind.OPEN.value
_ALLOWED_CHANGES = frozenset(
    (kind, *changes)
    for kind, names in CHANGEABLE_BALANCES.items()
    for changes in product(*((True, False) if name in names else (False,) for name in BALANCES))
)
"""Each kind with the balances that an entry of it may change together: in the order of BALANCES, True for a change."""

_CHUNK = text(
    "WITH chunk AS (SELECT tenant_id, window_id, sequence, month, source_id, kind, granted, settled, pending, forgiven"
    " FROM entries WHERE (tenant_id, window_id, sequence) > (:tenant_id, :window_id, :sequence)"
    " ORDER BY tenant_id, window_id, sequence LIMIT :most),"
    " touched AS (SELECT tenant_id, window_id FROM chunk"
    " UNION SELECT CAST(:tenant_id AS INTEGER), CAST(:window_id AS BIGINT))"
    " SELECT * FROM chunk UNION ALL"
    " SELECT windows.tenant_id, id, sequence, NULL, NULL, NULL, granted, settled, pending, forgiven"
    " FROM touched JOIN windows ON windows.tenant_id = touched.tenant_id AND windows.id = touched.window_id"
)
"""The next entries, and the row of each of their windows, without a source. The window of the entry before is there in
any case. They are sorted here, which takes less time than in SQLite.
"""
_key_of = itemgetter(0, 1, 2)
_WINDOWS = text(
    "SELECT tenant_id, quota_id, starts_ms, id, EXISTS (SELECT 1 FROM entries WHERE entries.tenant_id ="
    " windows.tenant_id AND window_id = windows.id) AS has_entries FROM windows"
    " WHERE (tenant_id, quota_id, starts_ms) > (:tenant_id, :quota_id, :starts_ms)"
    " ORDER BY tenant_id, quota_id, starts_ms LIMIT :most"
)


async def check_windows(database: Database, report: AuditReport, chunk: int, replay: "Replay") -> AsyncIterator[None]:
    """Check every window and entry behind the position of `replay`, a chunk at a time.

    Entries that are written behind the position are not read. Raises DatabaseUnavailable.
    """
    is_last = False
    while not is_last:
        before, position = replay.entries, replay.position._asdict()
        report.add(replay.read(await read(database, _CHUNK, most=chunk, **position)))
        report.entries += replay.entries - before
        is_last = replay.entries - before < chunk
        yield
    report.add(replay.finish())
    await _find_empty_windows(database, report, chunk)


async def _find_empty_windows(database: Database, report: AuditReport, chunk: int) -> None:
    """Count windows, and find those without entries: a window is created together with its first entry."""
    after = {"tenant_id": BEFORE_ALL_TENANTS, "quota_id": 0, "starts_ms": 0}
    while rows := await read(database, _WINDOWS, most=chunk, **after):
        report.windows += len(rows)
        report.add(
            Problem(Fault.SEQUENCE, f"window {row.id}", "it has no entries") for row in rows if not row.has_entries
        )
        after = {column: getattr(rows[-1], column) for column in after}


class EntryKey(NamedTuple):
    """The key of an entry, without its month."""

    tenant_id: int
    window_id: int
    sequence: int


BEFORE_ALL = EntryKey(BEFORE_ALL_TENANTS, 0, 0)


NO_CHARGES = "\U0010ffff"
"""It sorts after every id."""


class _Entry(NamedTuple):
    sequence: int
    month: int
    source_id: str
    kind: str
    amounts: tuple[int, int, int, int]


class Replay:
    """Adds up the entries of one window after the other. Call `read` with the rows of each chunk, then `finish`."""

    def __init__(
        self, position: EntryKey = BEFORE_ALL, state: WindowState = NEW_WINDOW, charges_after: str = NO_CHARGES
    ) -> None:
        """`state` is that of the window of `position`, if it was replayed up to there.

        Charges of entries whose id sorts after `charges_after` are collected.
        """
        self.entries = 0
        """How many entries were read."""
        self._owner: Key = position.tenant_id, position.window_id
        self._sequence = state.sequence
        self._sums = (state.granted, state.settled, state.pending, state.forgiven)
        self._stored: tuple[int, ...] | None = None
        """The sequence and the balances of the window's row, in the snapshot of its last entry that was read."""
        self._replayed: dict[Key, WindowState] = {}
        self._charges_after = charges_after
        self._charges: set[tuple[int, str]] = set()

    @property
    def position(self) -> EntryKey:
        """The key of the last entry that was read."""
        return EntryKey(*self._owner, self._sequence)

    def take_found(self) -> tuple[dict[Key, WindowState], set[tuple[int, str]]]:
        """How far each window was replayed, and the charges that were collected, since the last time."""
        found = self._replayed | {self._owner: WindowState(self._sequence, *self._sums)}, self._charges
        self._replayed, self._charges = {}, set()
        return found

    def read(self, rows: Iterable[Sequence[Any]]) -> Iterator[Problem]:
        """Add the rows of a chunk. Yields what is wrong with an entry, with the balances after it, or with a window."""
        entries = []
        stored = {}
        for row in map(tuple, rows):
            if row[4] is None:
                stored[row[0], row[1]] = (row[2], *row[6:])
            else:
                entries.append(row)
        entries.sort(key=_key_of)
        owner = self._owner
        self._stored = stored.get(owner)
        for tenant, window, sequence, month, source_id, kind, granted, settled, pending, forgiven in entries:
            if window != owner[1] or tenant != owner[0]:
                yield from self.finish()
                self._replayed[owner] = WindowState(self._sequence, *self._sums)
                self._owner = owner = tenant, window
                self._sequence, self._sums, self._stored = 0, (0, 0, 0, 0), stored.get(owner)
            is_allowed = (kind, granted != 0, settled != 0, pending != 0, forgiven != 0) in _ALLOWED_CHANGES
            if not is_allowed or (kind == _OPEN) != (sequence == 1) or source_id[:3] != CHARGE_PREFIX:
                yield from self._entry_problems(
                    _Entry(sequence, month, source_id, kind, (granted, settled, pending, forgiven))
                )
            if source_id > self._charges_after and source_id[:3] == CHARGE_PREFIX:
                self._charges.add((tenant, source_id))
            if sequence != self._sequence + 1:
                what = f"entry {self._sequence + 1} is missing, the next is {sequence}"
                yield self._problem(Fault.SEQUENCE, what)
            before = self._sums
            self._sums = sums = (before[0] + granted, before[1] + settled, before[2] + pending, before[3] + forgiven)
            self._sequence = sequence
            self.entries += 1
            if pending > 0 and sums[1] + sums[2] > sums[0]:
                yield self._over_admitted(sequence, source_id, pending)
            if min(sums) < 0:
                yield from self._negative_balances(sequence, before)

    def finish(self) -> Iterator[Problem]:
        """Compare the window's row with the sums of its entries."""
        if not self._sequence:
            return
        if self._stored is None:
            yield self._problem(Fault.ENTRY, "there are entries, but no such window")
            return
        sequence, *stored = self._stored
        if sequence != self._sequence:
            yield self._problem(Fault.SEQUENCE, f"its last entry is {self._sequence}, its row has {sequence}")
        for name, balance, total in zip(BALANCES, stored, self._sums, strict=True):
            if balance != total:
                yield self._problem(Fault.BALANCE, f"{name} is {balance}, its entries add up to {total}")

    def _over_admitted(self, sequence: int, source_id: str, held: int) -> Problem:
        granted, settled, pending, _ = self._sums
        return self._problem(
            Fault.OVER_ADMITTED,
            f"entry {sequence} ({source_id}) held {held} and brought settled {settled} + pending {pending} above"
            f" granted {granted}",
        )

    def _negative_balances(self, sequence: int, before: tuple[int, ...]) -> Iterator[Problem]:
        for name, was, now in zip(BALANCES, before, self._sums, strict=True):
            if now < 0 <= was:
                yield self._problem(Fault.NEGATIVE, f"entry {sequence} brought {name} to {now}")

    def _entry_problems(self, entry: _Entry) -> Iterator[Problem]:
        """Where an entry is not one that the ledger writes. Those of charges are compared with them in `charges.py`."""
        changeable = CHANGEABLE_BALANCES.get(entry.kind)
        if changeable is None:
            yield self._entry_problem(entry, "is of an unknown kind")
            return
        if (entry.kind == EntryKind.OPEN) != (entry.sequence == 1):
            yield self._entry_problem(entry, "is not where a window opens")
        for name, amount in zip(BALANCES, entry.amounts, strict=True):
            if amount and name not in changeable:
                yield self._entry_problem(entry, f"moves {name}")
        if entry.source_id.startswith(CHARGE_PREFIX):
            return
        if entry.kind in CHARGE_KINDS:
            yield self._entry_problem(entry, "belongs to no charge")
        if not is_month_of(entry.month, entry.source_id):
            yield self._entry_problem(entry, f"is in month {entry.month}, which is not its source's")

    def _entry_problem(self, entry: _Entry, what: str) -> Problem:
        return self._problem(Fault.ENTRY, f"entry {entry.sequence} ({entry.kind} by {entry.source_id}) {what}")

    def _problem(self, fault: Fault, what: str) -> Problem:
        return Problem(fault, f"window {self._owner[1]}", what)


def is_month_of(month: int, source_id: str) -> bool:
    """Whether a row is in the partition month of its charge or operation."""
    try:
        return month == month_of(source_id)
    except ValueError:
        return False
