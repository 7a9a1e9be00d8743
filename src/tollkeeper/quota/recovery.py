"""Books the calls that a restored database does not know, from the events that servers wrote at the end of each call.

A call whose charge is gone is booked anew, marked `recovered`; a charge that was open at the time of the backup is
closed as the event says. What is booked already stays as it is, so a recovery can be repeated.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import NamedTuple

from sqlmodel import col, select

from tollkeeper.chat import Usage
from tollkeeper.database.engine import Database
from tollkeeper.errors import LedgerError, LedgerUnavailable, NotFound
from tollkeeper.quota.ended_calls import EndedCall, read_ended_call
from tollkeeper.quota.rules.models import Basis, Charge, EntryKind
from tollkeeper.quota.rules.operations import Closing, Recover, Release, Settle
from tollkeeper.quota.time_sorted_ids import month_of, time_of

CHUNK = 500
"""Calls that are looked up, and booked, at once."""
BOOKING_WAIT_S = 60.0
MAX_AGE_MS = 35 * 86_400_000
"""Older charges may have been archived: that they are absent does not say that they were lost."""


MAX_AHEAD_MS = 86_400_000
"""How far ahead the clock of the server may have been that has made a charge."""


class Fate(StrEnum):
    """What the database knows of a call, and so what becomes of it."""

    BOOKED = "booked"
    """Its charge is there and closed, or it cost nothing."""
    LOST = "lost"
    """Its charge is not there: it is booked anew."""
    OPEN = "open"
    """Its charge was open at the backup, or has expired since: the event closes or adjusts it."""
    WITHOUT_USER = "without_user"
    """Its user is not there, or the id belongs to a user who was created later. There is no user to charge."""
    TOO_OLD = "too_old"
    """Its charge may have been archived."""
    TOO_NEW = "too_new"
    """Its charge has a time that is yet to come."""
    REFUSED = "refused"
    """The ledger has refused the operation."""


class FoundUser(NamedTuple):
    """A user in the database: their tenant, and when they were created, in milliseconds since the epoch."""

    tenant_id: int
    created_ms: int


FindUsers = Callable[[Collection[int]], Awaitable[Mapping[int, FoundUser]]]
"""Returns the users with these ids, as far as there are any. Raises DatabaseUnavailable."""
Book = Callable[[Closing], Awaitable[object]]


@dataclass(slots=True)
class RecoveryReport:
    """How many calls have which fate, and what those cost that are booked anew. Times are of charges, in ms."""

    fates: Counter[Fate] = field(default_factory=Counter)
    lost_tokens: int = 0
    lost_micro_usd: int = 0
    first_lost_ms: int | None = None
    last_lost_ms: int | None = None
    unreadable: int = 0

    def add_lost(self, call: EndedCall) -> None:
        at_ms = time_of(call.charge_id)
        self.lost_tokens += call.cost_tokens
        self.lost_micro_usd += call.cost_micro_usd
        self.first_lost_ms = min(self.first_lost_ms or at_ms, at_ms)
        self.last_lost_ms = max(self.last_lost_ms or at_ms, at_ms)


async def recover(
    database: Database, lines: Iterable[bytes], find_users: FindUsers, *, now_ms: int, book: Book | None = None
) -> RecoveryReport:
    """Find out what a database lacks of the calls in the lines of event files, and `book` it. Without `book`, change
    nothing.

    Raises DatabaseUnavailable, LedgerUnavailable.
    """
    report = RecoveryReport()
    ended = _ended_calls(lines, report)
    planned: set[str] = set()  # a sink may have written an event twice, and without `book` the charge stays unknown
    while unique := {call.charge_id: call for call in islice(ended, CHUNK)}:
        fates = await _fates(database, unique, find_users, now_ms)
        todo = [unique[charge_id] for charge_id, fate in fates.items() if fate in (Fate.LOST, Fate.OPEN)]
        if book is not None:
            fates |= await _book_all(book, [(call, _operation(call, fates[call.charge_id])) for call in todo])
        for charge_id, fate in fates.items():
            if charge_id in planned:
                report.fates[Fate.BOOKED] += 1
                continue
            report.fates[fate] += 1
            if fate is Fate.LOST:
                report.add_lost(unique[charge_id])
            if book is None and fate in (Fate.LOST, Fate.OPEN):
                planned.add(charge_id)
    return report


def _ended_calls(lines: Iterable[bytes], report: RecoveryReport) -> Iterator[EndedCall]:
    """The calls in lines that have a charge. A line that cannot be read is counted: the last one may be cut off."""
    for line in filter(bytes.strip, lines):
        try:
            call = read_ended_call(line)
        except ValueError:
            report.unreadable += 1
            continue
        if call is not None:
            yield call


async def _fates(
    database: Database, calls: Mapping[str, EndedCall], find_users: FindUsers, now_ms: int
) -> dict[str, Fate]:
    """The fate of each call, by the id of its charge."""
    known = await _known_charges(database, calls)
    users = await find_users({call.caller.user_id for call in calls.values()})
    return {charge_id: _fate(call, known.get(charge_id), users, now_ms) for charge_id, call in calls.items()}


def _fate(call: EndedCall, is_open: bool | None, users: Mapping[int, FoundUser], now_ms: int) -> Fate:
    """`is_open`: whether the charge is to be closed or adjusted; None if it is not there."""
    if is_open is not None:
        return Fate.OPEN if is_open else Fate.BOOKED
    if call.basis in (Basis.NONE, Basis.CACHE):
        return Fate.BOOKED
    created_ms = time_of(call.charge_id)
    if now_ms - created_ms > MAX_AGE_MS:
        return Fate.TOO_OLD
    if created_ms - now_ms > MAX_AHEAD_MS:
        return Fate.TOO_NEW
    user = users.get(call.caller.user_id)
    if user is None or user.tenant_id != call.caller.tenant_id or user.created_ms > created_ms:
        return Fate.WITHOUT_USER
    return Fate.LOST


async def _known_charges(database: Database, calls: Mapping[str, EndedCall]) -> dict[str, bool]:
    """The charges that the database has, and whether they are open, or have expired without a later adjustment."""
    statement = select(Charge.id, Charge.closed_ms, Charge.closed_by, Charge.adjusted).where(
        col(Charge.tenant_id).in_({call.caller.tenant_id for call in calls.values()}),
        col(Charge.month).in_(set(map(month_of, calls))),
        col(Charge.id).in_(list(calls)),
    )
    async with database.session() as session:
        rows = (await session.exec(statement)).all()
    return {
        charge_id: closed_ms is None or (closed_by == EntryKind.EXPIRE and not adjusted)
        for charge_id, closed_ms, closed_by, adjusted in rows
    }


def _operation(call: EndedCall, fate: Fate) -> Closing:
    if fate is Fate.LOST:
        return Recover(call.charge_id, call.caller, call.terms, call.granted_output, _paid_usage(call), call.basis)
    if call.basis is Basis.NONE:
        return Release(call.charge_id, call.caller.tenant_id, call.error)
    return Settle(call.charge_id, call.caller.tenant_id, call.usage, call.basis, call.error)


def _paid_usage(call: EndedCall) -> Usage:
    """The usage that the cost of a call follows from: with an unknown outcome, that may be all that it held."""
    meter = call.terms.meter
    if call.basis is Basis.UNKNOWN and call.cost_tokens > meter.tokens(call.usage):
        return meter.most_expensive_usage(call.terms.input_bound, call.granted_output)
    return call.usage


async def _book_all(book: Book, operations: Sequence[tuple[EndedCall, Closing]]) -> dict[str, Fate]:
    """Book all at once. Returns the calls that were refused. Raises LedgerUnavailable."""
    booking = asyncio.gather(*(book(operation) for _, operation in operations), return_exceptions=True)
    try:
        results = await asyncio.wait_for(booking, BOOKING_WAIT_S)
    except TimeoutError:
        raise LedgerUnavailable from None
    refused: dict[str, Fate] = {}
    for (call, _), result in zip(operations, results, strict=True):
        if isinstance(result, LedgerUnavailable):
            raise result
        if isinstance(result, NotFound):
            refused[call.charge_id] = Fate.WITHOUT_USER
        elif isinstance(result, LedgerError):
            refused[call.charge_id] = Fate.REFUSED
        elif isinstance(result, BaseException):
            raise result
    return refused
