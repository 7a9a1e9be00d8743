"""Reads balances, charges and entries, and explains the cost of a charge. Nothing here writes."""

import re

from sqlmodel import col, or_, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.errors import NotFound
from tollkeeper.quota.rules.models import Basis, Charge, ChargeState, Entry, EntryKind, Quota, Window
from tollkeeper.quota.rules.operations import Balance
from tollkeeper.quota.rules.page import QuotaRow, Subject, WindowRow
from tollkeeper.quota.rules.settlement import balance_of
from tollkeeper.quota.rules.windows import span
from tollkeeper.quota.stores.rows import quota_row

CHARGE_ID = re.compile(r"chg_[0-9a-f]{32}")


async def quotas_of(session: AsyncSession, subject: Subject) -> list[QuotaRow]:
    """The quotas of a user or a tenant, by unit, the shortest period first."""
    owner = Quota.user_id == subject.user_id if subject.user_id is not None else col(Quota.user_id).is_(None)
    rows = (await session.exec(select(Quota).where(Quota.tenant_id == subject.tenant_id, owner))).all()
    return sorted(map(_quota_row, rows), key=lambda quota: (quota.key.unit, quota.key.period.rank))


async def balances_of(session: AsyncSession, subjects: list[Subject], now_ms: int) -> list[Balance]:
    """The balance of every quota of these subjects in its current window. A window without a row is unused."""
    quotas = [quota for subject in subjects for quota in await quotas_of(session, subject)]
    spans = {quota.id: span(quota.key.period, now_ms) for quota in quotas}
    wanted = [(Window.quota_id == quota_id) & (Window.starts_ms == starts) for quota_id, (starts, _) in spans.items()]
    found = (await session.exec(select(Window).where(or_(*wanted)))).all() if wanted else []
    used = {window.quota_id: window for window in found}
    return [balance_of(_window_row(quota, used.get(quota.id), spans[quota.id])) for quota in quotas]


async def charges_of(session: AsyncSession, user_id: int, *, before: str | None, limit: int) -> list[Charge]:
    """At most `limit` charges of a user, the newest first. With `before`, only those older than this id."""
    query = select(Charge).where(Charge.user_id == user_id).order_by(col(Charge.id).desc()).limit(limit)
    if before is not None:
        query = query.where(Charge.id < before)
    return list((await session.exec(query)).all())


async def charge(session: AsyncSession, charge_id: str, *, user_id: int | None = None) -> Charge:
    """One charge; with `user_id`, only if it is that user's. Raises NotFound if there is none."""
    if not CHARGE_ID.fullmatch(charge_id):
        raise NotFound
    query = select(Charge).where(Charge.id == charge_id)
    if user_id is not None:
        query = query.where(Charge.user_id == user_id)
    found = (await session.exec(query)).first()
    if found is None:
        raise NotFound
    return found


async def entries_of(session: AsyncSession, source_id: str) -> list[tuple[Entry, str]]:
    """The entries of a charge or an operation, each with the name of its quota, in the order of writing."""
    rows = (
        await session.exec(
            select(Entry, Quota)
            .join(Window, col(Window.id) == Entry.window_id)
            .join(Quota, col(Quota.id) == Window.quota_id)
            .where(Entry.source_id == source_id)
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
