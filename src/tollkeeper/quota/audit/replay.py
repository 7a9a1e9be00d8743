"""Recomputes the balances of a window from its entries. No I/O: `windows` and `changed_windows` read the rows."""

from collections.abc import Iterable, Iterator
from itertools import product
from operator import itemgetter
from typing import NamedTuple

from tollkeeper.quota.audit.facts import NEW_WINDOW, Key, Values, WindowState
from tollkeeper.quota.audit.problems import Fault, Problem
from tollkeeper.quota.audit.reading import BEFORE_ALL_TENANTS
from tollkeeper.quota.rules.carry import BALANCES, Carry, later_mode, read_carry
from tollkeeper.quota.rules.models import EntryKind
from tollkeeper.quota.time_sorted_ids import CHARGE_PREFIX, month_of

_LIMIT_KINDS = {
    EntryKind.OPEN,
    EntryKind.LIMIT,
    EntryKind.GRANT,
    EntryKind.LAPSE,
    EntryKind.OVERRIDE,
    EntryKind.ROLLOVER,
}
_ADMINISTRATIVE_KINDS = _LIMIT_KINDS | {EntryKind.REPORT, EntryKind.BLOCK, EntryKind.REMOVE}
CHARGE_KINDS = frozenset(set(EntryKind) - _ADMINISTRATIVE_KINDS - {EntryKind.CARRY})
"""The kinds of entries that belong to a charge."""
CHANGEABLE_BALANCES: dict[str, frozenset[str]] = {
    **dict.fromkeys(_LIMIT_KINDS, frozenset({"granted"})),
    EntryKind.REPORT: frozenset(),
    EntryKind.BLOCK: frozenset(),
    EntryKind.REMOVE: frozenset(),
    EntryKind.REFUND: frozenset({"settled"}),
    EntryKind.RESERVE: frozenset({"pending"}),
    EntryKind.SETTLE: frozenset({"settled", "pending", "forgiven"}),
    EntryKind.RELEASE: frozenset({"pending"}),
    EntryKind.EXPIRE: frozenset({"settled", "pending", "forgiven"}),
    EntryKind.ADJUST: frozenset({"settled", "forgiven"}),
}
"""The balances that each kind of entry may change."""
_OPEN = EntryKind.OPEN.value
_MODES = frozenset({EntryKind.REPORT.value, EntryKind.BLOCK.value})
_ALLOWED_CHANGES = frozenset(
    (kind, *changes)
    for kind, names in CHANGEABLE_BALANCES.items()
    for changes in product(*((True, False) if name in names else (False,) for name in BALANCES))
)
"""Each kind with the balances that an entry of it may change together: in the order of BALANCES, True for a change."""
_key_of = itemgetter(0, 1, 2)


class EntryKey(NamedTuple):
    """The key of an entry, without its month."""

    tenant_id: int
    window_id: int
    sequence: int


BEFORE_ALL = EntryKey(BEFORE_ALL_TENANTS, 0, 0)
BEFORE_CARRY = -(2**31)
"""A sequence before those of all entries, also of carries."""

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
        self._last = position.sequence
        self._carry: Carry | None = None
        self._left = 0
        """How many entries before the end of the carry were read, because they are not archived."""
        self._sequence = state.sequence
        self._sums = (state.granted, state.settled, state.pending, state.forgiven)
        self._mode = state.mode
        self._stored: tuple[int, ...] | None = None
        """The sequence and the balances of the window's row, in the snapshot of its last entry that was read."""
        self._replayed: dict[Key, WindowState] = {}
        self._charges_after = charges_after
        self._charges: set[tuple[int, str]] = set()

    @property
    def position(self) -> EntryKey:
        """The key of the last entry that was read."""
        return EntryKey(*self._owner, self._last)

    @property
    def resume_position(self) -> EntryKey:
        """From where another replay can go on, with the state of the window: not from amid what its carry covers."""
        return EntryKey(*self._owner, BEFORE_CARRY) if self._carry is not None else self.position

    def take_found(self) -> tuple[dict[Key, WindowState], set[tuple[int, str]]]:
        """How far each window was replayed, and the charges that were collected, since the last time."""
        found = self._replayed, self._charges
        if self._carry is None:
            found[0][self._owner] = WindowState(self._sequence, *self._sums, self._mode)
        self._replayed, self._charges = {}, set()
        return found

    def read(self, rows: Iterable[Values]) -> Iterator[Problem]:
        """Add the rows of a chunk. Yields what is wrong with an entry, with the balances after it, or with a window."""
        entries, stored = _entries_and_windows(rows)
        owner = self._owner
        self._stored = stored.get(owner)
        for tenant, window, sequence, month, source_id, kind, granted, settled, pending, forgiven, reason in entries:
            if window != owner[1] or tenant != owner[0]:
                yield from self.finish()
                self._replayed[owner] = WindowState(self._sequence, *self._sums, self._mode)
                self._owner = owner = tenant, window
                self._last = self._sequence = self._mode = 0
                self._sums, self._stored = (0, 0, 0, 0), stored.get(owner)
            self.entries += 1
            self._last = sequence
            if sequence < 0:
                entry = _Entry(sequence, month, source_id, kind, (granted, settled, pending, forgiven))
                yield from self._start_from_carry(entry, reason)
                continue
            is_allowed = (kind, granted != 0, settled != 0, pending != 0, forgiven != 0) in _ALLOWED_CHANGES
            if not is_allowed or (kind == _OPEN) != (sequence == 1) or source_id[:3] != CHARGE_PREFIX:
                yield from self._entry_problems(
                    _Entry(sequence, month, source_id, kind, (granted, settled, pending, forgiven))
                )
            if source_id > self._charges_after and source_id[:3] == CHARGE_PREFIX:
                self._charges.add((tenant, source_id))
            before = self._sums
            self._sums = sums = (before[0] + granted, before[1] + settled, before[2] + pending, before[3] + forgiven)
            if kind in _MODES:
                self._mode = later_mode(self._mode, sequence, kind)
            if self._carry is not None:
                if sequence <= self._carry.up_to:
                    self._left += 1
                    continue
                yield from self._leave_carry()
            if sequence != self._sequence + 1:
                what = f"entry {self._sequence + 1} is missing, the next is {sequence}"
                yield self._problem(Fault.SEQUENCE, what)
            self._sequence = sequence
            if pending > 0 and sums[1] + sums[2] > sums[0] and self._mode <= 0:
                yield self._over_admitted(sequence, source_id, pending)
            if min(sums) < 0:
                yield from self._negative_balances(sequence, before)

    def finish(self) -> Iterator[Problem]:
        """Compare the window's row with the sums of its entries."""
        yield from self._leave_carry()
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

    def _start_from_carry(self, entry: _Entry, reason: str | None) -> Iterator[Problem]:
        """Take the newest carry of a window, the first, as the sums of what is archived. Older ones do not count."""
        if self._carry is not None or self._sequence:
            return
        try:
            self._carry = read_carry(entry.amounts, reason)
        except ValueError as error:
            yield self._entry_problem(entry, f"stands for archived entries, but {error}")
            return
        self._sums, self._mode = entry.amounts, self._carry.mode
        if entry.kind != EntryKind.CARRY or not is_month_of(entry.month, entry.source_id):
            yield self._entry_problem(entry, "has the sequence of a carry")

    def _leave_carry(self) -> Iterator[Problem]:
        """Go on behind the last archived entry, if the replay has not yet: all up to there must have been counted."""
        if self._carry is None:
            return
        carry, left = self._carry, self._left
        self._carry, self._left, self._sequence = None, 0, carry.up_to
        if carry.entries + left != carry.up_to:
            what = f"{carry.entries} entries are archived and {left} left, up to entry {carry.up_to}"
            yield self._problem(Fault.SEQUENCE, what)

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


def _entries_and_windows(
    rows: Iterable[Values],
) -> tuple[list[Values], dict[Key, tuple[int, ...]]]:
    """The entries of a chunk in their order, and the sequence and balances of each window's row."""
    entries, stored = [], {}
    for row in rows:
        if row[4] is None:
            stored[row[0], row[1]] = (row[2], *row[6:10])
        else:
            entries.append(row)
    entries.sort(key=_key_of)
    return entries, stored


def is_month_of(month: int, source_id: str) -> bool:
    """Whether a row is in the partition month of its charge or operation."""
    try:
        return month == month_of(source_id)
    except ValueError:
        return False
