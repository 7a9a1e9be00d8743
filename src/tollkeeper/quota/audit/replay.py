"""What must be true of the ledger's rows, told from the rows alone. Pure: `verify.py` brings them, in order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Any

from tollkeeper.quota.rules.models import Basis, Kind, State, Unit

BALANCES = ("granted", "settled", "pending", "forgiven")
ENDS = frozenset({Kind.SETTLE, Kind.RELEASE, Kind.EXPIRE})
OF_A_CHARGE = ENDS | {Kind.RESERVE, Kind.ADJUST, Kind.REFUND}
MOVES: dict[str, frozenset[str]] = {
    Kind.OPEN: frozenset({"granted"}),
    Kind.LIMIT: frozenset({"granted"}),
    Kind.GRANT: frozenset({"granted"}),
    Kind.REFUND: frozenset({"settled"}),
    Kind.RESERVE: frozenset({"pending"}),
    Kind.SETTLE: frozenset({"settled", "pending", "forgiven"}),
    Kind.RELEASE: frozenset({"pending"}),
    Kind.EXPIRE: frozenset({"settled", "pending", "forgiven"}),
    Kind.ADJUST: frozenset({"settled", "forgiven"}),
}
"""Which balances each kind of entry may move."""


class Fault(StrEnum):
    """What kind of thing is wrong."""

    BALANCE = "balance"
    SEQUENCE = "sequence"
    OVER_ADMITTED = "over_admitted"
    NEGATIVE = "negative"
    ENTRY = "entry"
    CHARGE = "charge"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, and what."""

    fault: Fault
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class WindowReplay:
    """One window, replayed line by line. Feed `step` every entry in sequence, then ask `finish`.

    A row carries the entry, and the window's own row as it was in the same snapshot.
    """

    def __init__(self, window_id: int) -> None:
        self.window_id = window_id
        self._sums = (0, 0, 0, 0)
        self._sequence = 0
        self._last: Any = None

    def step(self, row: Any) -> Iterator[Problem]:
        """Add an entry. What is wrong with it, or with where it leads."""
        if row.sequence != self._sequence + 1:
            yield self._problem(Fault.SEQUENCE, f"entry {self._sequence + 1} is missing, the next is {row.sequence}")
        moved = row.granted, row.settled, row.pending, row.forgiven
        yield from self._unlawful(row, moved)
        before = self._sums
        self._sums = granted, settled, pending, _ = (
            before[0] + moved[0],
            before[1] + moved[1],
            before[2] + moved[2],
            before[3] + moved[3],
        )
        self._sequence, self._last = row.sequence, row
        if row.pending > 0 and settled + pending > granted:
            yield self._problem(
                Fault.OVER_ADMITTED,
                f"entry {row.sequence} ({row.source_id}) held {row.pending} and brought settled {settled}"
                f" + pending {pending} above granted {granted}",
            )
        if min(self._sums) < 0:
            for name, was, now in zip(BALANCES, before, self._sums, strict=True):
                if now < 0 <= was:
                    yield self._problem(Fault.NEGATIVE, f"entry {row.sequence} brought {name} to {now}")

    def finish(self) -> Iterator[Problem]:
        """Compare the window's row with the sum of its entries."""
        last = self._last
        if last.window_sequence is None:
            yield self._problem(Fault.ENTRY, "there are entries, but no such window")
            return
        if last.window_sequence != self._sequence:
            yield self._problem(
                Fault.SEQUENCE, f"its last entry is {self._sequence}, its row says {last.window_sequence}"
            )
        stored = last.window_granted, last.window_settled, last.window_pending, last.window_forgiven
        for name, balance, total in zip(BALANCES, stored, self._sums, strict=True):
            if balance != total:
                yield self._problem(Fault.BALANCE, f"{name} is {balance}, its entries add up to {total}")

    def _unlawful(self, row: Any, moved: tuple[int, int, int, int]) -> Iterator[Problem]:
        """Why this entry is not one that the ledger writes."""
        lawful = MOVES.get(row.kind)
        if lawful is None:
            yield self._stray(row, "is of no known kind")
            return
        if (row.kind == Kind.OPEN) != (row.sequence == 1):
            yield self._stray(row, "is not where a window opens")
        for name, amount in zip(BALANCES, moved, strict=True):
            if amount and name not in lawful:
                yield self._stray(row, f"moves {name}")
        if row.charge_id is None and row.kind in OF_A_CHARGE:
            yield self._stray(row, "belongs to no charge")

    def _stray(self, row: Any, what: str) -> Problem:
        return self._problem(Fault.ENTRY, f"entry {row.sequence} ({row.kind} by {row.source_id}) {what}")

    def _problem(self, fault: Fault, what: str) -> Problem:
        return Problem(fault, f"window {self.window_id}", what)


def charge_problems(charge: Any, entries: Sequence[Any]) -> Iterator[Problem]:
    """What is wrong with one charge, given its entries in the order of window and sequence."""
    for what in _contradictions(charge):
        yield Problem(Fault.CHARGE, f"charge {charge.id}", what)
    if not entries and charge.basis != Basis.CACHE:
        yield Problem(Fault.CHARGE, f"charge {charge.id}", "it has no entries")
    for window_id, lines in groupby(entries, key=lambda row: row.window_id):
        for what in _window_of_charge(charge, list(lines)):
            yield Problem(Fault.CHARGE, f"charge {charge.id} in window {window_id}", what)


def _contradictions(charge: Any) -> Iterator[str]:
    """Where a charge's own row says two things at once."""
    open_by_state = charge.state in (State.RESERVED, State.DISPATCHED)
    if open_by_state != (charge.closed_ms is None) or open_by_state != (charge.closed_by is None):
        yield f"it is {charge.state}, but its end says otherwise"
    if charge.state == State.RELEASED and charge.cost_tokens:
        yield f"it is released, but costs {charge.cost_tokens} tokens"
    above = charge.cost_tokens > charge.held_tokens or (charge.cost_micro_usd or 0) > (charge.held_micro_usd or 0)
    if above and not charge.overrun:
        yield "it cost more than was held, but is not flagged as an overrun"


def _window_of_charge(charge: Any, lines: list[Any]) -> Iterator[str]:
    """Compare a charge with what it wrote into one window."""
    first = lines[0]
    if first.quota_tenant_id != charge.tenant_id or first.quota_user_id not in (None, charge.user_id):
        yield "the window is someone else's"
    tokens = first.unit == Unit.TOKENS
    held = charge.held_tokens if tokens else charge.held_micro_usd or 0
    cost = charge.cost_tokens if tokens else charge.cost_micro_usd or 0
    pardon = charge.forgiven_tokens if tokens else charge.forgiven_micro_usd or 0
    kinds = [line.kind for line in lines]
    paid = forgiven = outstanding = 0
    for line in lines:
        outstanding += line.pending
        forgiven += line.forgiven
        if line.kind == Kind.REFUND:
            if line.settled != -paid:
                yield f"{-line.settled} were refunded of the {paid} it had paid"
        else:
            paid += line.settled
        if line.kind == Kind.RESERVE and line.pending != held:
            yield f"its reserve is of {line.pending}, the charge says {held}"
    if paid != cost:
        yield f"its entries settle {paid}, the charge says {cost}"
    if forgiven != pardon:
        yield f"its entries forgive {forgiven}, the charge says {pardon}"
    due = ((Kind.RESERVE, 1), (Kind.ADJUST, int(charge.adjusted)), (Kind.REFUND, int(charge.refunded)))
    for kind, times in due:
        if kinds.count(kind) != times:
            yield f"it has {kinds.count(kind)} entries of kind {kind}, the charge says {times}"
    yield from _ends(charge, [kind for kind in kinds if kind in ENDS], outstanding)


def _ends(charge: Any, ends: list[str], outstanding: int) -> Iterator[str]:
    if charge.closed_ms is None:
        if ends:
            yield f"the charge is open, but its hold has ended ({', '.join(ends)})"
    elif len(ends) != 1:
        yield f"the charge is closed, but its hold has {len(ends)} ends; {outstanding} are outstanding"
    elif ends[0] != charge.closed_by:
        yield f"its hold ended by {ends[0]}, the charge says {charge.closed_by}"
    elif outstanding:
        yield f"the charge is closed, but {outstanding} of its hold are outstanding"
