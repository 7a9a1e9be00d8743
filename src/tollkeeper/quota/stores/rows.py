"""Converts between the database's rows and the ledger's."""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from tollkeeper.quota.rules.charge_row import CHARGE_COLUMNS, INSERTED_COLUMNS, UPDATED_COLUMNS, ChargeRow
from tollkeeper.quota.rules.models import EntryKind, Unit
from tollkeeper.quota.rules.page import EntryRow, QuotaKey, QuotaRow, Subject, WindowRow
from tollkeeper.quota.rules.windows import Period
from tollkeeper.quota.time_sorted_ids import month_of, new_id

MAX_CLOCK_SKEW_MS = 300_000
"""By how much the clocks of the servers and of the database may differ."""


def quota_row(row: Sequence[Any]) -> QuotaRow:
    """From id, tenant_id, user_id, unit, period, granted."""
    quota_id, tenant_id, user_id, unit, period, granted = row
    return QuotaRow(quota_id, QuotaKey(Subject(tenant_id, user_id), Unit(unit), Period(period)), granted)


def window_row(row: Sequence[Any], quota: QuotaRow) -> WindowRow:
    """From id, quota_id, starts_ms, ends_ms, granted, settled, pending, forgiven, sequence."""
    return WindowRow(row[0], quota, *row[2:])


def opening_entry(window: WindowRow, now_ms: int) -> EntryRow:
    """The first entry of a window, with its initial grant."""
    source_id = new_id("win")
    key = window.tenant_id, window.id, 1, month_of(source_id)
    return EntryRow(*key, source_id, EntryKind.OPEN.value, window.granted, 0, 0, 0, now_ms, None, None)


all_values: Callable[[ChargeRow], tuple[Any, ...]] = attrgetter(*CHARGE_COLUMNS)
inserted_values: Callable[[ChargeRow], tuple[Any, ...]] = attrgetter(*INSERTED_COLUMNS)
updated_values: Callable[[ChargeRow], tuple[Any, ...]] = attrgetter(*UPDATED_COLUMNS)
