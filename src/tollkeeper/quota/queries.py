"""Reads balances, charges and entries, and explains the cost of a charge. Nothing here writes."""

import re
from collections.abc import Sequence

from sqlalchemy import column, table, tuple_
from sqlalchemy.orm import aliased
from sqlmodel import and_, col, or_, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.db import Database
from tollkeeper.errors import InvalidRequest, NotFound
from tollkeeper.quota.rules.models import Basis, Charge, ChargeState, Entry, EntryKind, Quota, Window
from tollkeeper.quota.rules.operations import Balance
from tollkeeper.quota.rules.page import QuotaKey, QuotaRow, Subject, WindowRow
from tollkeeper.quota.rules.settlement import balance_of
from tollkeeper.quota.rules.windows import span
from tollkeeper.quota.stores.rows import quota_row
from tollkeeper.quota.time_sorted_ids import month_of
from tollkeeper.tenant_scope import ALL_TENANTS, TenantScope

CHARGE_ID = re.compile(r"chg_[0-9a-f]{32}")
_TENANTS = table("tenants", column("id"))


async def quotas_of(session: AsyncSession, subject: Subject) -> list[QuotaRow]:
    """The quotas of a user or a tenant, by unit, the shortest period first."""
    owner = Quota.user_id == subject.user_id if subject.user_id is not None else col(Quota.user_id).is_(None)
    rows = (await session.exec(select(Quota).where(Quota.tenant_id == subject.tenant_id, owner))).all()
    return sorted(map(_quota_row, rows), key=lambda quota: (quota.key.unit, quota.key.period.rank))


async def balances_of(session: AsyncSession, subjects: list[Subject], now_ms: int) -> list[Balance]:
    """The balance of every quota of these subjects in its current window."""
    quotas = [quota for subject in subjects for quota in await quotas_of(session, subject)]
    return await balances_of_quotas(session, quotas, now_ms)


async def balances_of_quotas(session: AsyncSession, quotas: Sequence[QuotaRow], now_ms: int) -> list[Balance]:
    """The balance of each quota in its current window. A window without a row is unused."""
    spans = {quota.id: span(quota.key.period, now_ms) for quota in quotas}
    ids: dict[tuple[int, int], list[int]] = {}
    for quota in quotas:
        ids.setdefault((quota.key.subject.tenant_id, spans[quota.id][0]), []).append(quota.id)
    wanted = [
        and_(Window.tenant_id == tenant_id, Window.starts_ms == starts_ms, col(Window.quota_id).in_(quota_ids))
        for (tenant_id, starts_ms), quota_ids in ids.items()
    ]
    found = (await session.exec(select(Window).where(or_(*wanted)))).all() if wanted else []
    used = {window.quota_id: window for window in found}
    return [balance_of(_window_row(quota, used.get(quota.id), spans[quota.id])) for quota in quotas]


async def balances_by_subject(
    session: AsyncSession, tenant_id: int, subjects: Sequence[Subject], now_ms: int
) -> list[list[Balance]]:
    """The balances of each of a tenant's subjects, as `quotas_of` sorts them."""
    user_ids = [subject.user_id for subject in subjects if subject.user_id is not None]
    of_users = Quota.tenant_id == tenant_id, col(Quota.user_id).in_(user_ids)
    rows = (await session.exec(select(Quota).where(*of_users))).all() if user_ids else []
    quotas = list(map(_quota_row, rows))
    for subject in subjects:
        if subject.user_id is None:
            quotas += await quotas_of(session, subject)
    quotas.sort(key=lambda quota: (quota.key.unit, quota.key.period.rank))
    found: dict[Subject, list[Balance]] = {subject: [] for subject in subjects}
    for quota, balance in zip(quotas, await balances_of_quotas(session, quotas, now_ms), strict=True):
        found[quota.key.subject].append(balance)
    return list(found.values())


async def limits_of(session: AsyncSession, key: QuotaKey, now_ms: int) -> tuple[int | None, int]:
    """The limit of a quota's current window, and that of windows to come; (None, 0) if there is no such quota."""
    quota = next((quota for quota in await quotas_of(session, key.subject) if quota.key == key), None)
    if quota is None:
        return None, 0
    (balance,) = await balances_of_quotas(session, [quota], now_ms)
    return balance.limit, quota.granted


async def charges_of(session: AsyncSession, owner: Subject, *, before: str | None, limit: int) -> list[Charge]:
    """At most `limit` charges of a user, the newest first. With `before`, only those older than this id."""
    of_owner = Charge.tenant_id == owner.tenant_id, Charge.user_id == owner.user_id
    query = select(Charge).where(*of_owner).order_by(col(Charge.id).desc()).limit(limit)
    if before is not None:
        query = query.where(Charge.id < before)
    return list((await session.exec(query)).all())


async def charges_of_tenant(session: AsyncSession, tenant_id: int, *, before: str | None, limit: int) -> list[Charge]:
    """At most `limit` charges of a tenant, the newest first; with `before`, only those older than this id.

    Raises InvalidRequest for a `before` that is no charge's id.
    """
    query = select(Charge).where(Charge.tenant_id == tenant_id)
    if before is not None:
        month = _month_of(before)
        if month is None:
            raise InvalidRequest("The cursor is not that of a page of charges.")
        query = query.where(tuple_(col(Charge.month), col(Charge.id)) < (month, before))
    query = query.order_by(col(Charge.month).desc(), col(Charge.id).desc())
    return list((await session.exec(query.limit(limit))).all())


async def charge(session: AsyncSession, charge_id: str, scope: TenantScope, *, user_id: int | None = None) -> Charge:
    """One charge in this scope; with `user_id`, only if it is that user's. Raises NotFound if there is none.

    For all tenants it is looked for in each: the id tells the month, not the tenant.
    """
    month = _month_of(charge_id)
    if month is None:
        raise NotFound
    query = select(Charge).where(Charge.month == month, Charge.id == charge_id)
    if scope.tenant_id is None:
        query = query.where(col(Charge.tenant_id).in_(select(_TENANTS.c.id)))
    else:
        query = query.where(scope.condition(col(Charge.tenant_id)))
    if user_id is not None:
        query = query.where(Charge.user_id == user_id)
    found = (await session.exec(query)).first()
    if found is None:
        raise NotFound
    return found


async def tenant_of(database: Database, charge_id: str) -> int | None:
    """The tenant of a charge; None if there is no such charge. Raises DatabaseUnavailable."""
    async with database.session() as session:
        try:
            return (await charge(session, charge_id, ALL_TENANTS)).tenant_id
        except NotFound:
            return None


def _month_of(charge_id: str) -> int | None:
    """The partition month of a charge's id; None for anything else that a caller may have sent."""
    try:
        return month_of(charge_id) if CHARGE_ID.fullmatch(charge_id) else None
    except ValueError:
        return None


async def entries_of(session: AsyncSession, charge: Charge) -> list[tuple[Entry, str]]:
    """The entries of a charge, each with the name of its quota, in the order of writing.

    Their keys are read from the index of sources, which has them all. Asked for whole rows, SQLite would rather read
    every entry of the tenant.
    """
    key = aliased(Entry)
    of_charge = key.tenant_id == charge.tenant_id, key.source_id == charge.id, key.month == charge.month
    same = [getattr(key, name) == getattr(Entry, name) for name in ("tenant_id", "window_id", "sequence", "month")]
    rows = (
        await session.exec(
            select(Entry, Quota)
            .join(key, and_(*same))
            .join(Window, and_(col(Window.tenant_id) == Entry.tenant_id, col(Window.id) == Entry.window_id))
            .join(Quota, col(Quota.id) == Window.quota_id)
            .where(*of_charge)
            .order_by(col(Entry.at_ms), col(Entry.window_id), col(Entry.sequence))
        )
    ).all()
    return [(entry, _quota_row(quota).name) for entry, quota in rows]


def reason(charge: Charge) -> str:
    """Explains the cost of a charge to its user."""
    if charge.state == ChargeState.RESERVED.value:
        return "Reserved; nothing has been sent to the provider yet."
    if charge.state == ChargeState.DISPATCHED.value:
        return "In flight: the hold stands until the provider has answered."
    sentence = _REASONS[Basis(charge.basis or Basis.NONE.value)]
    if charge.basis == Basis.UNKNOWN.value:
        if charge.closed_by == EntryKind.EXPIRE.value:
            sentence = "The process that made the call was lost: what was known of it is charged, the rest is forgiven."
        elif charge.forgiven_tokens == 0 and charge.cost_tokens == charge.held_tokens:
            sentence = "The outcome is unknown and the forgiveness of this window is used up: the hold is charged."
    if charge.adjusted:
        sentence += " It was known only after the lease was over, and booked as an adjustment."
    if charge.overrun:
        sentence += " It cost more than was held, and is booked in full as an overrun."
    if charge.refunded:
        sentence += " It was refunded."
    return sentence


_REASONS = {
    Basis.PROVIDER: "Charged as the provider reported.",
    Basis.COUNTED: "The provider reported no believable usage: the text was counted, at most the hold.",
    Basis.UNKNOWN: "The outcome is unknown: the input is charged, the rest is forgiven.",
    Basis.NONE: "Nothing was billed, so the hold was given back.",
    Basis.CACHE: "Answered without the provider.",
}


def _quota_row(quota: Quota) -> QuotaRow:
    return quota_row((quota.id, quota.tenant_id, quota.user_id, quota.unit, quota.period, quota.granted))


def _window_row(quota: QuotaRow, window: Window | None, times: tuple[int, int | None]) -> WindowRow:
    if window is None:
        return WindowRow(0, quota, *times, granted=quota.granted)
    return WindowRow(window.id or 0, quota, *times, window.granted, window.settled, window.pending, window.forgiven)
