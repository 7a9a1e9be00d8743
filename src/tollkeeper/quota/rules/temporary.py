"""Limits that end by themselves: grants with an expiry, and overrides of a quota's limit. No I/O.

A window has the time at which the next of them begins or ends (`WindowRow.due_ms`). What is due is written as entries
under the window's lock, before anything is decided; what is only read subtracts it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tollkeeper.errors import InvalidRequest
from tollkeeper.quota.rules.models import EntryKind
from tollkeeper.quota.rules.page import Page, WindowRow

MAX_TEMPORARY = 200
"""Grants and overrides of one quota that have not ended."""


class TemporaryRow(NamedTuple):
    """A grant to one window until `ends_ms`; or, without `window_id`, an override of the limit of all windows from
    `starts_ms` until `ends_ms`, whose `amount` is the limit.
    """

    id: int
    tenant_id: int
    quota_id: int
    window_id: int | None
    amount: int
    starts_ms: int
    ends_ms: int
    operation_id: str


class Temporary(NamedTuple):
    """The limit of a quota, what rolls over of it at most, its grants and overrides that had not ended when they were
    due, the oldest first, and whether it refuses no call.
    """

    limit: int
    rollover_cap: int | None
    rows: Sequence[TemporaryRow]
    report_only: bool = False


NO_TEMPORARY: Sequence[TemporaryRow] = ()


def override_at(rows: Iterable[TemporaryRow], at_ms: int) -> int | None:
    """The limit that the newest override of this time sets; None without any."""
    found = None
    for row in rows:
        if row.window_id is None and row.starts_ms <= at_ms < row.ends_ms:
            found = row.amount
    return found


def next_due(rows: Iterable[TemporaryRow], window: WindowRow, after_ms: int) -> int | None:
    """When the next grant or override in a window begins or ends; None if none does."""
    times = [
        at_ms
        for row in rows
        if row.window_id in (None, window.id)
        for at_ms in (row.starts_ms, row.ends_ms)
        if at_ms > after_ms and (window.ends_ms is None or at_ms < window.ends_ms)
    ]
    return min(times, default=None)


def expired_grants(rows: Iterable[TemporaryRow], window: WindowRow, now_ms: int) -> list[TemporaryRow]:
    """The grants to a window that are over."""
    return [row for row in rows if row.window_id == window.id and row.ends_ms <= now_ms]


def due_amount(temporary: Temporary, window: WindowRow, now_ms: int) -> int:
    """By how much the limit of a window is to change, by all that is due."""
    if window.due_ms is None or window.due_ms > now_ms:
        return 0
    expired = sum(row.amount for row in expired_grants(temporary.rows, window, now_ms))
    return _limit(temporary, override_at(temporary.rows, now_ms)) - _limit(temporary, window.override) - expired


def write_due(page: Page, window: WindowRow, temporary: Temporary, source_id: str, month: int) -> None:
    """Write what is due in a window: the ends of grants as one entry, the change of the limit as another.

    `source_id` identifies them.
    """
    expired = expired_grants(temporary.rows, window, page.now_ms)
    override = override_at(temporary.rows, page.now_ms)
    more = _limit(temporary, override) - _limit(temporary, window.override)
    if expired:
        reason = ", ".join(row.operation_id for row in expired)[:MAX_REASON]
        amount = sum(row.amount for row in expired)
        page.post(window, EntryKind.LAPSE, source_id, month, granted=-amount, reason=reason)
        page.ended_grants += [row.id for row in expired]
    if more:
        page.post(window, EntryKind.OVERRIDE, source_id, month, granted=more)
    window.override = override
    window.due_ms = next_due(temporary.rows, window, page.now_ms)
    page.mark_terms(window)


def add_grant(page: Page, window: WindowRow, amount: int, ends_ms: int, operation_id: str) -> None:
    """Have what is granted to a window taken back at this time, if the window has not ended before.

    Raises InvalidRequest for a time that is past.
    """
    _require_future(page, ends_ms)
    if window.ends_ms is None or ends_ms < window.ends_ms:
        _add(page, window, TemporaryRow(0, *_of(window), window.id, amount, page.now_ms, ends_ms, operation_id))
        _fall_due(page, window, ends_ms)


def add_override(page: Page, window: WindowRow, limit: int, starts_ms: int, ends_ms: int, operation_id: str) -> bool:
    """Override the limit of a quota, whose current window this is. Returns whether that begins now.

    Raises InvalidRequest for an end that is past, or not after the start.
    """
    _require_future(page, ends_ms)
    starts_ms = max(starts_ms, page.now_ms)
    if starts_ms >= ends_ms:
        raise InvalidRequest("An override ends after it starts.")
    _add(page, window, TemporaryRow(0, *_of(window), None, limit, starts_ms, ends_ms, operation_id))
    begins_now = starts_ms == page.now_ms
    _fall_due(page, window, ends_ms if begins_now else starts_ms)
    if begins_now:
        window.override = limit
    return begins_now


MAX_REASON = 500
"""Characters of the reason of an entry."""


def _add(page: Page, window: WindowRow, row: TemporaryRow) -> None:
    if sum(one.ends_ms > page.now_ms for one in page.temporary[window.quota.id].rows) >= MAX_TEMPORARY:
        raise InvalidRequest(f"A quota has at most {MAX_TEMPORARY} grants and overrides at a time that end later.")
    page.new_temporary.append(row)


def _fall_due(page: Page, window: WindowRow, at_ms: int) -> None:
    if window.ends_ms is None or at_ms < window.ends_ms:
        window.due_ms = at_ms if window.due_ms is None else min(window.due_ms, at_ms)
    page.mark_terms(window)


def _require_future(page: Page, ends_ms: int) -> None:
    if ends_ms <= page.now_ms:
        raise InvalidRequest("The time until which this is to last is past.")


def _of(window: WindowRow) -> tuple[int, int]:
    return window.tenant_id, window.quota.id


def _limit(temporary: Temporary, override: int | None) -> int:
    return temporary.limit if override is None else override
