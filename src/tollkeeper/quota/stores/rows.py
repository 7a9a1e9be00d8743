"""Converts between the database's rows and the ledger's."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

from tollkeeper.quota.rules.charge_row import CHARGE_COLUMNS, INSERTED_COLUMNS, UPDATED_COLUMNS, ChargeRow
from tollkeeper.quota.rules.models import EntryKind, Unit
from tollkeeper.quota.rules.page import EntryRow, Page, QuotaKey, QuotaRow, WindowRow
from tollkeeper.quota.rules.rollover import rollover, write_rollover
from tollkeeper.quota.rules.subjects import subject_of
from tollkeeper.quota.rules.templates import follow, lag, lags
from tollkeeper.quota.rules.temporary import (
    NO_TEMPORARY,
    Temporary,
    TemporaryRow,
    due_amount,
    next_due,
    override_at,
    write_due,
)
from tollkeeper.quota.rules.windows import Calendar, Period, new_span
from tollkeeper.quota.time_sorted_ids import month_of, new_id, time_of

QUOTA_COLUMNS = (
    "quotas.id, quotas.tenant_id, quotas.user_id, quotas.kind, quotas.subject, unit, period, granted,"
    " time_zone, reset_day, quotas.report_only, fallback_model, overrides_end_ms, rollover_cap"
)
"""What `quota_row` takes, of `quotas` and `tenants`: see QUOTAS."""
QUOTAS = "quotas JOIN tenants ON tenants.id = quotas.tenant_id"
APPLIES = "quotas.removed_ms IS NULL"
"""Condition: the quota is not removed."""
LIMITS = ("granted", "report_only", "fallback_model", "overrides_end_ms", "rollover_cap", "removed_ms")
"""The columns of a quota that change."""
TERMS = ("report_only", "override", "due_ms", "rolled", "base")
"""The columns of a window that change seldom."""
WINDOW_COLUMNS = (
    f"id, quota_id, starts_ms, ends_ms, granted, settled, pending, forgiven, sequence, {', '.join(TERMS)}, value"
)
"""What `window_row` takes, of `windows`."""
GROUPS_OF_USER = (
    "group_members JOIN user_groups ON user_groups.tenant_id = group_members.tenant_id"
    " AND user_groups.id = group_members.group_id WHERE user_groups.closed_ms IS NULL"
)
"""The memberships in groups that are not closed."""
OF_TAGS = "quotas.kind IN ('tag', 'each_tag')"
NOT_OF_TAGS = "quotas.kind NOT IN ('tag', 'each_tag')"
"""Conditions: the quotas of tags, and the templates of them, are read once for all users of a tenant."""
HAS_TAGS = "EXISTS (SELECT 1 FROM tag_names WHERE tag_names.tenant_id = users.tenant_id)"
TEMPORARY_COLUMNS = ", ".join(f"temporary_limits.{column}" for column in TemporaryRow._fields)
READ_TEMPORARY = (
    f"SELECT quotas.id, quotas.granted, rollover_cap, report_only, {TEMPORARY_COLUMNS} FROM quotas"
    " LEFT JOIN temporary_limits ON temporary_limits.tenant_id = quotas.tenant_id AND quota_id = quotas.id"
    " AND ends_ms >= {since}"
    " WHERE quotas.id {among} ORDER BY quotas.id, temporary_limits.id"
)
"""What `temporary_of` takes: of some quotas, without what ended before `since`."""
FIND_ARCHIVED_MONTH = "SELECT coalesce(max(month), 0) FROM archives"
RECENT_MS = 30 * 86_400_000
"""Months end at least 35 days before they are archived: charges younger than this are in none of them."""
MAX_CLOCK_SKEW_MS = 300_000
"""By how much the clocks of the servers and of the database may differ."""


def may_be_archived(charges: Mapping[str, int]) -> bool:
    """Whether one of these charges is so old that its month may be archived. Ids sort by their times."""
    return bool(charges) and time_of(min(charges)) < time.time() * 1000 - RECENT_MS


def quota_row(row: Sequence[Any]) -> QuotaRow:
    """From the QUOTA_COLUMNS."""
    quota_id, tenant_id, user_id, kind, name, unit, period, granted, time_zone, reset_day, report_only, *more = row
    key = QuotaKey(subject_of(tenant_id, user_id, kind, name), Unit(unit), Period(period))
    return QuotaRow(quota_id, key, granted, Calendar(time_zone, reset_day), bool(report_only), *more)


def place_of(quota: QuotaRow, now_ms: int) -> tuple[int, int, str, int]:
    """What a query of a quota's window of this time takes."""
    subject = quota.key.subject
    return subject.tenant_id, quota.id, subject.value, now_ms


def keys_of(quotas: Collection[QuotaRow]) -> tuple[list[int], list[int], list[str]]:
    """The tenants, ids and values of quotas, for a query of their windows."""
    subjects = [quota.key.subject for quota in quotas]
    tenants, values = [subject.tenant_id for subject in subjects], [subject.value for subject in subjects]
    return tenants, [quota.id for quota in quotas], values


def rolls_over(window: WindowRow) -> bool:
    """Whether what was unused in the window before is granted to this one."""
    return window.quota.rollover_cap is not None


def is_overridden(quota: QuotaRow, now_ms: int) -> bool:
    """Whether a quota has overrides that have not ended."""
    return quota.overrides_end_ms is not None and quota.overrides_end_ms > now_ms


def quota_key_values(key: QuotaKey) -> tuple[int, int | None, str, str, str, str]:
    """The columns that identify a quota: tenant, user, kind and name of the subject, unit and period. A value of a
    template has the row of that.
    """
    subject = key.subject
    return (subject.tenant_id, subject.user_id, subject.kind.value, subject.name, key.unit.value, key.period.value)


def window_row(row: Sequence[Any], quota: QuotaRow) -> WindowRow:
    """From the WINDOW_COLUMNS. `quota` may be of another value of the same template."""
    return WindowRow(row[0], quota.of(row[-1]), *row[2:-1])


def new_window(
    quota: QuotaRow,
    now_ms: int,
    previous_end_ms: int | None = None,
    next_start_ms: int | None = None,
    temporary: Sequence[TemporaryRow] = NO_TEMPORARY,
) -> WindowRow:
    """The quota's window at this time as it begins; see `new_span`. It has no id and no entry yet: `opening_entries`
    are its first ones. `temporary` are the quota's overrides.
    """
    times = new_span(
        quota.key.period, now_ms, quota.calendar, previous_end_ms=previous_end_ms, next_start_ms=next_start_ms
    )
    window = WindowRow(0, quota, *times, quota.granted, report_only=quota.report_only)
    if temporary:
        window.override = override_at(temporary, now_ms)
        window.granted = quota.granted if window.override is None else window.override
        window.due_ms = next_due(temporary, window, now_ms)
    if quota.value:
        window.base = quota.granted
    window.sequence = len(_opening_amounts(window))
    return window


def _opening_amounts(window: WindowRow) -> list[tuple[EntryKind, int]]:
    """What is granted to a window at its begin, by the kind of the entry."""
    amounts = [(EntryKind.OPEN, window.quota.granted)]
    if window.granted != window.quota.granted:
        amounts.append((EntryKind.OVERRIDE, window.granted - window.quota.granted))
    if window.report_only:
        amounts.append((EntryKind.REPORT, 0))
    return amounts


def opening_entries(window: WindowRow, now_ms: int) -> list[EntryRow]:
    """The first entries of a window: its initial grant, the override that it begins with, and that it only reports."""
    source_id = new_id("win")
    month, tenant_id = month_of(source_id), window.tenant_id
    return [
        EntryRow(tenant_id, window.id, sequence, month, source_id, kind.value, granted, 0, 0, 0, now_ms, None, None)
        for sequence, (kind, granted) in enumerate(_opening_amounts(window), 1)
    ]


def quotas_with_due(page: Page, due: Mapping[int, WindowRow]) -> tuple[set[int], int]:
    """The quotas whose temporary limits a page needs, and since when."""
    since = [page.now_ms if window.due_ms is None else window.due_ms for window in due.values()]
    since += [previous.ends_ms or 0 for _, previous in page.successions]
    quotas = {window.quota.id for window in due.values()} | {one.window.quota.id for one in page.successions}
    return quotas | {quota.id for quota in page.quotas.values()}, min(since, default=page.now_ms)


def due_windows(page: Page) -> dict[int, WindowRow]:
    """The windows of a page in which a grant or an override is to begin or end by now, and those of now that are to
    follow a change of their template.
    """
    now_ms = page.now_ms
    due = {window.id: window for window in page.locked_windows if window.due_ms is not None and window.due_ms <= now_ms}
    for window in page.current_windows.values():
        if window.base is not None and lags(window):
            due[window.id] = window
    return due


def as_due(window: WindowRow, temporary: Temporary | None, now_ms: int) -> WindowRow:
    """A stored window that is only shown, as it will be once what is due by now is written."""
    more = lag(window) + (due_amount(temporary, window, now_ms) if temporary is not None else 0)
    report_only = window.quota.report_only if lags(window) else window.report_only
    return replace(window, granted=window.granted + more, report_only=report_only)


def with_rollover(window: WindowRow, previous: WindowRow | None, overrides: Sequence[TemporaryRow]) -> WindowRow:
    """A window that is only shown, with what would roll over into it from the one before."""
    if previous is not None and window.quota.rollover_cap is not None:
        terms = window.quota.key.period, window.quota.rollover_cap, window.quota.granted
        window.rolled = rollover(*terms, previous, window.starts_ms, overrides)
        window.granted += window.rolled
    return window


def write_all_due(page: Page, due: Mapping[int, WindowRow]) -> None:
    """Write what is due in these windows, and what rolls over into new ones, before anything is decided."""
    for one in page.successions:
        source_id = new_id("rol")
        write_rollover(page, one, page.temporary[one.window.quota.id], source_id, month_of(source_id))
    for window in due.values():
        source_id = new_id("due")
        temporary = page.temporary[window.quota.id]
        if lags(window):
            follow(page, window, temporary, source_id, month_of(source_id))
        if window.due_ms is not None and window.due_ms <= page.now_ms:
            write_due(page, window, temporary, source_id, month_of(source_id))


def temporary_of(rows: Sequence[Sequence[Any]]) -> dict[int, Temporary]:
    """By the quotas' ids: from the id, the limit, the cap and the mode of each quota, and the columns of a temporary
    limit.
    """
    found: dict[int, Temporary] = {}
    limits: dict[int, list[TemporaryRow]] = {}
    for quota_id, limit, cap, report_only, *row in rows:
        of_quota = limits.setdefault(quota_id, [])
        if row[0] is not None:
            of_quota.append(TemporaryRow(*row))
        found[quota_id] = Temporary(limit, cap, of_quota, bool(report_only))
    return found


all_values: Callable[[ChargeRow], tuple[Any, ...]] = attrgetter(*CHARGE_COLUMNS)
inserted_values: Callable[[ChargeRow], tuple[Any, ...]] = attrgetter(*INSERTED_COLUMNS)
updated_values: Callable[[ChargeRow], tuple[Any, ...]] = attrgetter(*UPDATED_COLUMNS)
limit_values: Callable[[QuotaRow], tuple[Any, ...]] = attrgetter(*LIMITS)
