"""From a database's rows to the ledger's, and what a process may remember of the policy between two batches."""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from tollkeeper.quota.rules.models import Kind, Unit
from tollkeeper.quota.rules.page import (
    CHANGING_COLUMNS,
    OPENING_COLUMNS,
    Account,
    ChargeRow,
    EntryRow,
    QuotaKey,
    QuotaRow,
    Subject,
    WindowRow,
)
from tollkeeper.quota.rules.windows import Period

MAX_REMEMBERED = 50_000


def quota_row(row: Sequence[Any]) -> QuotaRow:
    """From id, tenant_id, user_id, unit, period, granted."""
    quota_id, tenant_id, user_id, unit, period, granted = row
    return QuotaRow(quota_id, QuotaKey(Subject(tenant_id, user_id), Unit(unit), Period(period)), granted)


def window_row(row: Sequence[Any], quota: QuotaRow) -> WindowRow:
    """From id, quota_id, starts_ms, ends_ms, granted, settled, pending, forgiven, sequence."""
    return WindowRow(row[0], quota, *row[2:])


class PolicyCache:
    """Accounts and quotas as read at one policy version. Triggers raise the version with every change of them."""

    def __init__(self) -> None:
        self._version: int | None = None
        self.accounts: dict[int, Account] = {}
        self.quotas: dict[int, QuotaRow] = {}

    def at(self, version: int) -> None:
        """Forget everything unless this is the version it was read at."""
        if version != self._version or len(self.accounts) > MAX_REMEMBERED:
            self.forget()
            self._version = version

    def forget(self) -> None:
        self._version = None
        self.accounts.clear()
        self.quotas.clear()

    def remember(self, user_id: int, account: Account) -> None:
        self.accounts[user_id] = account
        self.quotas.update((quota.id, quota) for quota in account.quotas)


def opening_entry(window: WindowRow, now_ms: int) -> EntryRow:
    """The first line of a window: what it was given when it was created."""
    source_id = f"{window.quota.id}:{window.starts_ms}"
    return EntryRow(window.id, 1, source_id, Kind.OPEN.value, window.granted, 0, 0, 0, now_ms, None, None)


opening_values: Callable[[ChargeRow], tuple[Any, ...]] = attrgetter(*OPENING_COLUMNS)
changing_values: Callable[[ChargeRow], tuple[Any, ...]] = attrgetter(*CHANGING_COLUMNS)
