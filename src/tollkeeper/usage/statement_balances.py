"""The balances of a tenant's own quotas in a statement: those in tokens and money, per month or without an end.

What is left of a shorter window ends with it, within the month. What a window was granted is read from its entries.
What was spent of a window without an end are the calls of the month, but for those that were made before the quota. A
quota that was removed by the end of the month has a balance only if it is one per month.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.page import QuotaKey, QuotaRow, Subject
from tollkeeper.quota.rules.windows import Period
from tollkeeper.quota.time_sorted_ids import CHARGE_PREFIX, USAGE_BUCKET_MS
from tollkeeper.usage.buckets import DAY_MS
from tollkeeper.usage.statement_parts import QuotaBalance

GRANTING = ("adm", "due")
"""The prefixes of the sources of entries that change what was granted, besides the opening of a window."""

_WINDOWS = text(
    "SELECT windows.id, windows.starts_ms, windows.granted, windows.settled, quotas.id AS quota_id, unit, period,"
    " EXISTS (SELECT 1 FROM quotas AS old WHERE old.tenant_id = quotas.tenant_id AND old.kind = 'tenant'"
    " AND old.unit = quotas.unit AND old.period = quotas.period AND old.id < quotas.id) AS replaces"
    " FROM quotas JOIN windows ON windows.tenant_id = quotas.tenant_id AND windows.quota_id = quotas.id"
    " WHERE quotas.tenant_id = :tenant_id AND quotas.kind = 'tenant' AND unit IN ('tokens', 'micro_usd')"
    " AND ((period = 'total' AND (removed_ms IS NULL OR removed_ms >= :ends_ms))"
    " OR (period = 'month' AND starts_ms >= :starts_ms AND starts_ms < :ends_ms))"
    " ORDER BY unit, period, starts_ms"
)
_OPENING = text(
    "SELECT granted, at_ms FROM entries WHERE tenant_id = :tenant_id AND window_id = :window_id AND sequence = 1"
)
_GRANTED = text(
    "SELECT CAST(coalesce(sum(granted), 0) AS bigint) FROM entries WHERE tenant_id = :tenant_id"
    " AND source_id >= :first AND source_id < :after AND window_id = :window_id"
)
_SETTLED = text(
    "SELECT CAST(coalesce(sum(settled), 0) AS bigint) FROM entries WHERE tenant_id = :tenant_id"
    " AND source_id >= :first AND source_id < :after AND window_id = :window_id"
)
_SPENT = text(
    "SELECT CAST(coalesce(sum(cost_tokens - refunded_tokens), 0) AS bigint) AS tokens,"
    " CAST(coalesce(sum(cost_micro_usd - refunded_micro_usd), 0) AS bigint) AS micro_usd FROM usage_days"
    " WHERE tenant_id = :tenant_id AND dimension = 'time' AND day_ms >= :first_day AND day_ms < :after"
    " AND value >= :first AND value < :after_text"
)


class _Window(NamedTuple):
    """A window and its quota. `replaces`: there was another one of this name, which was removed, so that earlier
    statements may be about that one.
    """

    id: int
    starts_ms: int
    granted: int
    settled: int
    quota_id: int
    unit: str
    period: str
    replaces: bool


async def read_balances(
    session: AsyncSession,
    tenant_id: int,
    month: tuple[int, int],
    openings: Mapping[str, int],
    stated: Mapping[str, int],
) -> list[QuotaBalance]:
    """The balances of a month, from its begin to its end. By the name of the quota, `openings` are the closing balances
    of the statement before, if that is closed, and `stated` is what all closed statements say was spent.
    """
    times = {"tenant_id": tenant_id, "starts_ms": month[0], "ends_ms": month[1]}
    found = await (await session.connection()).execute(_WINDOWS, times)
    balances = []
    for row in [_Window(*row) for row in found]:
        if row.period == Period.MONTH.value:
            left = row.granted - row.settled
            balances.append(QuotaBalance(_name(tenant_id, row), row.unit, 0, row.granted, row.settled, 0, left))
            continue
        name = _name(tenant_id, row)
        before = (None, 0) if row.replaces else (openings.get(name), stated.get(name, 0))
        balance = await _TotalWindow(session, tenant_id, row).balance(month, *before)
        if balance is not None:
            balances.append(balance)
    return balances


class _TotalWindow:
    """A window without an end."""

    def __init__(self, session: AsyncSession, tenant_id: int, window: _Window) -> None:
        self._session = session
        self._tenant_id = tenant_id
        self._window = window

    async def balance(self, month: tuple[int, int], opening: int | None, stated: int) -> QuotaBalance | None:
        """The balance of a month; None if the quota is younger. Without an `opening`, it is computed."""
        starts_ms, ends_ms = month
        opened = await self._one(_OPENING, window_id=self._window.id)
        initial, opened_ms = opened if opened is not None else (0, 0)  # its first entries are archived
        if opened_ms >= ends_ms:
            return None
        corrections = 0
        spent_before = await self._spent(opened_ms, opened_ms, starts_ms) if opened_ms < starts_ms else 0
        if opening is not None:
            corrections = spent_before - stated
        elif opened_ms < starts_ms:
            opening = initial + await self._granted(0, starts_ms) - spent_before
        granted = await self._granted(starts_ms, ends_ms) + (initial if opened_ms >= starts_ms else 0)
        spent = await self._spent(opened_ms, starts_ms, ends_ms)
        closing = (opening or 0) + granted - spent - corrections
        name = _name(self._tenant_id, self._window)
        return QuotaBalance(name, self._window.unit, opening or 0, granted, spent, corrections, closing)

    async def _granted(self, starts_ms: int, ends_ms: int) -> int:
        granted = 0
        for prefix in GRANTING:
            first, after = _first_id(prefix, starts_ms), _first_id(prefix, ends_ms)
            granted += (await self._one(_GRANTED, window_id=self._window.id, first=first, after=after) or (0,))[0]
        return granted

    async def _spent(self, opened_ms: int, starts_ms: int, ends_ms: int) -> int:
        """What calls of this time have cost, as far as they hold on the window.

        Those made around its opening are found by their entries: the clocks of servers, by which charges are counted,
        may differ from the ledger's by minutes.
        """
        opened = opened_ms - opened_ms % USAGE_BUCKET_MS
        first, after = max(starts_ms, opened - USAGE_BUCKET_MS), min(ends_ms, opened + 2 * USAGE_BUCKET_MS)
        spent = 0
        if opened_ms and first < after:
            ids = {"first": _first_id(CHARGE_PREFIX, first), "after": _first_id(CHARGE_PREFIX, after)}
            spent += (await self._one(_SETTLED, window_id=self._window.id, **ids) or (0,))[0]
        rest = max(starts_ms, opened + 2 * USAGE_BUCKET_MS) if opened_ms else starts_ms
        if rest < ends_ms:
            times = {"first_day": rest - rest % DAY_MS, "after": ends_ms}
            sums = await self._one(_SPENT, **times, first=f"{rest:013}", after_text=f"{ends_ms:013}")
            spent += sums[Unit(self._window.unit) is Unit.MICRO_USD] if sums is not None else 0
        return spent

    async def _one(self, statement: Any, **values: Any) -> Sequence[Any] | None:
        connection = await self._session.connection()
        return (await connection.execute(statement, {"tenant_id": self._tenant_id, **values})).first()


def _name(tenant_id: int, window: _Window) -> str:
    key = QuotaKey(Subject(tenant_id), Unit(window.unit), Period(window.period))
    return QuotaRow(window.quota_id, key, 0).name


def _first_id(prefix: str, at_ms: int) -> str:
    return f"{prefix}_{at_ms:012x}{'0' * 20}"
