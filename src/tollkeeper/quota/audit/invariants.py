"""The invariants of the ledger's rows, checked on rows alone. No I/O: `verify.py` reads the rows, in order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Any

from tollkeeper.quota.rules.models import Basis, ChargeState, EntryKind, Unit
from tollkeeper.quota.time_sorted_ids import month_of

BALANCES = ("granted", "settled", "pending", "forgiven")
CLOSING_KINDS = frozenset({EntryKind.SETTLE, EntryKind.RELEASE, EntryKind.EXPIRE})
CHARGE_KINDS = CLOSING_KINDS | {EntryKind.RESERVE, EntryKind.ADJUST, EntryKind.REFUND}
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


class Fault(StrEnum):
    """The kind of a problem."""

    BALANCE = "balance"
    SEQUENCE = "sequence"
    OVER_ADMITTED = "over_admitted"
    NEGATIVE = "negative"
    ENTRY = "entry"
    CHARGE = "charge"
    COST = "cost"
    SKIPPED_QUOTA = "skipped_quota"


@dataclass(frozen=True, slots=True)
class Problem:
    """One violation of an invariant: where it is, and what is wrong."""

    fault: Fault
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class WindowCheck:
    """Recomputes the balances of one window from its entries. Call `add` with every entry in sequence, then `finish`.

    A row has the columns of the entry, and those of its window in the same snapshot.
    """

    def __init__(self, tenant_id: int, window_id: int) -> None:
        self.tenant_id = tenant_id
        self.window_id = window_id
        self._sums = (0, 0, 0, 0)
        self._sequence = 0
        self._last: Any = None

    def add(self, row: Any) -> Iterator[Problem]:
        """Add an entry. Yields what is wrong with it, or with the balances after it."""
        if row.sequence != self._sequence + 1:
            yield self._problem(Fault.SEQUENCE, f"entry {self._sequence + 1} is missing, the next is {row.sequence}")
        amounts = row.granted, row.settled, row.pending, row.forgiven
        yield from self._entry_problems(row, amounts)
        before = self._sums
        self._sums = granted, settled, pending, _ = (
            before[0] + amounts[0],
            before[1] + amounts[1],
            before[2] + amounts[2],
            before[3] + amounts[3],
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
        """Compare the window's row with the sums of its entries."""
        last = self._last
        if last.window_sequence is None:
            yield self._problem(Fault.ENTRY, "there are entries, but no such window")
            return
        if last.window_sequence != self._sequence:
            yield self._problem(
                Fault.SEQUENCE, f"its last entry is {self._sequence}, its row has {last.window_sequence}"
            )
        stored = last.window_granted, last.window_settled, last.window_pending, last.window_forgiven
        for name, balance, total in zip(BALANCES, stored, self._sums, strict=True):
            if balance != total:
                yield self._problem(Fault.BALANCE, f"{name} is {balance}, its entries add up to {total}")

    def _entry_problems(self, row: Any, amounts: tuple[int, int, int, int]) -> Iterator[Problem]:
        """Where an entry is not one that the ledger writes."""
        changeable = CHANGEABLE_BALANCES.get(row.kind)
        if changeable is None:
            yield self._entry_problem(row, "is of an unknown kind")
            return
        if (row.kind == EntryKind.OPEN) != (row.sequence == 1):
            yield self._entry_problem(row, "is not where a window opens")
        for name, amount in zip(BALANCES, amounts, strict=True):
            if amount and name not in changeable:
                yield self._entry_problem(row, f"moves {name}")
        if row.charge_id is None and row.kind in CHARGE_KINDS:
            yield self._entry_problem(row, "belongs to no charge")
        if not _is_month_of(row.month, row.source_id):
            yield self._entry_problem(row, f"is in month {row.month}, which is not its source's")

    def _entry_problem(self, row: Any, what: str) -> Problem:
        return self._problem(Fault.ENTRY, f"entry {row.sequence} ({row.kind} by {row.source_id}) {what}")

    def _problem(self, fault: Fault, what: str) -> Problem:
        return Problem(fault, f"window {self.window_id}", what)


def _is_month_of(month: int, source_id: str) -> bool:
    """Whether a row is in the partition month of its charge or operation."""
    try:
        return month == month_of(source_id)
    except ValueError:
        return False


def charge_problems(charge: Any, entries: Sequence[Any]) -> Iterator[Problem]:
    """What is wrong with a charge, given its entries in the order of window and sequence."""
    for what in _contradictions(charge):
        yield Problem(Fault.CHARGE, f"charge {charge.id}", what)
    if not entries and charge.basis != Basis.CACHE:
        yield Problem(Fault.CHARGE, f"charge {charge.id}", "it has no entries")
    for window_id, window_entries in groupby(entries, key=lambda row: row.window_id):
        for what in _window_problems(charge, list(window_entries)):
            yield Problem(Fault.CHARGE, f"charge {charge.id} in window {window_id}", what)


def _contradictions(charge: Any) -> Iterator[str]:
    """Where the columns of a charge contradict each other."""
    is_open = charge.state in (ChargeState.RESERVED, ChargeState.DISPATCHED)
    if not _is_month_of(charge.month, charge.id):
        yield f"it is in month {charge.month}, which is not its id's"
    if is_open != (charge.closed_ms is None) or is_open != (charge.closed_by is None):
        yield f"it is {charge.state}, but closed_ms or closed_by contradicts that"
    if charge.state == ChargeState.RELEASED and charge.cost_tokens:
        yield f"it is released, but costs {charge.cost_tokens} tokens"
    above_tokens = charge.cost_tokens > charge.held_tokens
    above_money = (charge.cost_micro_usd or 0) > (charge.held_micro_usd or 0)
    if (above_tokens or above_money) and not charge.overrun:
        yield "it cost more than was held, but is not flagged as an overrun"


def _window_problems(charge: Any, entries: list[Any]) -> Iterator[str]:
    """Compare a charge with its entries in one window."""
    first = entries[0]
    if first.quota_tenant_id != charge.tenant_id or first.quota_user_id not in (None, charge.user_id):
        yield "the window is another user's or tenant's"
    is_tokens = first.unit == Unit.TOKENS
    held = charge.held_tokens if is_tokens else charge.held_micro_usd or 0
    cost = charge.cost_tokens if is_tokens else charge.cost_micro_usd or 0
    forgiven = charge.forgiven_tokens if is_tokens else charge.forgiven_micro_usd or 0
    kinds = [entry.kind for entry in entries]
    settled_sum = forgiven_sum = pending_sum = 0
    for entry in entries:
        pending_sum += entry.pending
        forgiven_sum += entry.forgiven
        if entry.kind == EntryKind.REFUND:
            if entry.settled != -settled_sum:
                yield f"{-entry.settled} were refunded, but its entries had settled {settled_sum}"
        else:
            settled_sum += entry.settled
        if entry.kind == EntryKind.RESERVE and entry.pending != held:
            yield f"its reserve is of {entry.pending}, the charge has {held}"
    if settled_sum != cost:
        yield f"its entries settle {settled_sum}, the charge has {cost}"
    if forgiven_sum != forgiven:
        yield f"its entries forgive {forgiven_sum}, the charge has {forgiven}"
    expected_counts = (
        (EntryKind.RESERVE, 1),
        (EntryKind.ADJUST, int(charge.adjusted)),
        (EntryKind.REFUND, int(charge.refunded)),
    )
    for kind, count in expected_counts:
        if kinds.count(kind) != count:
            yield f"it has {kinds.count(kind)} entries of kind {kind}, the charge has {count}"
    yield from _closing_problems(charge, [kind for kind in kinds if kind in CLOSING_KINDS], pending_sum)


def _closing_problems(charge: Any, closing: list[str], pending: int) -> Iterator[str]:
    """Compare the state of a charge with the entries that end its hold. `pending` is the rest of the hold."""
    if charge.closed_ms is None:
        if closing:
            yield f"the charge is open, but its hold has ended ({', '.join(closing)})"
    elif len(closing) != 1:
        yield f"the charge is closed, but its hold has {len(closing)} ends; {pending} are pending"
    elif closing[0] != charge.closed_by:
        yield f"its hold ended by {closing[0]}, the charge has {charge.closed_by}"
    elif pending:
        yield f"the charge is closed, but {pending} of its hold are pending"
