"""Reads balances, charges and entries, and explains the cost of a charge. Nothing here writes."""

from collections.abc import Iterable, Sequence

from sqlalchemy import column, table, text
from sqlalchemy.orm import aliased
from sqlmodel import and_, col, or_, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.database.engine import Database
from tollkeeper.errors import ChargeArchived, InvalidRequest, NotFound, NotInGroup
from tollkeeper.principal import Principal
from tollkeeper.quota.rules.models import Archive, Charge, Entry, Quota, Window
from tollkeeper.quota.rules.models import TemporaryLimit as Temporaries
from tollkeeper.quota.rules.operations import Balance
from tollkeeper.quota.rules.page import QuotaKey, QuotaRow, Subject, WindowRow
from tollkeeper.quota.rules.settlement import balance_of
from tollkeeper.quota.rules.subjects import (
    SubjectKind,
    conversation_value,
    not_replaced,
    slot_of,
    template_of,
    value_of,
)
from tollkeeper.quota.rules.temporary import NO_TEMPORARY, Temporary, TemporaryRow
from tollkeeper.quota.rules.windows import UTC_CALENDAR, Period, earliest_start_ms
from tollkeeper.quota.stores.rows import GROUPS_OF_USER, as_due, new_window, quota_row, with_rollover
from tollkeeper.quota.time_sorted_ids import CHARGE_ID, month_of
from tollkeeper.tenant_scope import ALL_TENANTS, TenantScope

_TENANTS = table("tenants", column("id"), column("time_zone"), column("reset_day"))
_APPLYING = (
    select(Quota, _TENANTS.c.time_zone, _TENANTS.c.reset_day)
    .join(_TENANTS, _TENANTS.c.id == col(Quota.tenant_id))
    .where(col(Quota.removed_ms).is_(None))
)
"""Quotas that are not removed, with what `_quota_row` takes besides."""

_GROUP = (
    f"SELECT user_groups.id FROM {GROUPS_OF_USER} AND group_members.tenant_id = :tenant_id"
    " AND group_members.user_id = :user_id AND "
)
_DEFAULT_GROUP, _NAMED_GROUP = text(f"{_GROUP} is_default"), text(f"{_GROUP} user_groups.name = :name")


async def quotas_of(session: AsyncSession, subject: Subject) -> list[QuotaRow]:
    """The quotas of a subject, by unit, the shortest period first: its own, and those that it has of templates."""
    owner = Quota.user_id == subject.user_id if subject.user_id is not None else col(Quota.user_id).is_(None)
    part = Quota.kind == subject.kind.value, Quota.subject == subject.name
    rows = (await session.exec(_APPLYING.where(Quota.tenant_id == subject.tenant_id, owner, *part))).all()
    own = [_quota_row(row).of(subject.value) for row in rows]
    if (template := template_of(subject)) is not None:
        own += not_replaced(await quotas_of(session, template), value_of(subject), own)
    return _sorted(own)


def _sorted(quotas: Iterable[QuotaRow]) -> list[QuotaRow]:
    return sorted(quotas, key=lambda quota: (quota.key.unit, quota.key.period.rank))


async def shared_subjects(session: AsyncSession, caller: Principal) -> list[Subject]:
    """Whose quotas apply to a call of this caller, beside those of the user: of the API key, the tags, the group, the
    conversation and the tenant.

    Raises NotInGroup for a group that the caller names, and is no member of.
    """
    subjects = []
    if caller.api_key is not None:
        subjects.append(Subject(caller.tenant_id, caller.user_id, SubjectKind.KEY, caller.api_key))
    subjects += [Subject(caller.tenant_id, None, SubjectKind.TAG, tag) for tag in caller.tags or ()]
    values: dict[str, int | str] = {"tenant_id": caller.tenant_id, "user_id": caller.user_id}
    named = _DEFAULT_GROUP
    if caller.group is not None:
        named, values["name"] = _NAMED_GROUP, caller.group
    group_id = (await (await session.connection()).execute(named, values)).scalar_one_or_none()
    if group_id is not None:
        subjects.append(Subject(caller.tenant_id, None, SubjectKind.GROUP, str(group_id)))
    elif caller.group is not None:
        raise NotInGroup
    if caller.conversation is not None:
        value = conversation_value(caller.user_id, caller.conversation)
        subjects.append(Subject(caller.tenant_id, None, SubjectKind.EACH_CONVERSATION, value=value))
    return [*subjects, Subject(caller.tenant_id)]


async def balances_of(session: AsyncSession, subjects: list[Subject], now_ms: int) -> list[Balance]:
    """The balance of every quota of these subjects in its current window."""
    quotas = [quota for subject in subjects for quota in await quotas_of(session, subject)]
    return await balances_of_quotas(session, quotas, now_ms)


async def balances_of_quotas(session: AsyncSession, quotas: Sequence[QuotaRow], now_ms: int) -> list[Balance]:
    """The balance of each quota in its current window. A window without a row is unused."""
    if not quotas:
        return []
    ids: dict[tuple[int, Period, str], list[int]] = {}
    for quota in quotas:
        ids.setdefault((quota.key.subject.tenant_id, quota.key.period, quota.value), []).append(quota.id)
    wanted = [
        and_(
            Window.tenant_id == tenant_id,
            col(Window.quota_id).in_(quota_ids),
            Window.value == value,
            Window.starts_ms >= earliest_start_ms(period, now_ms),
            Window.starts_ms <= now_ms,
        )
        for (tenant_id, period, value), quota_ids in ids.items()
    ]
    query = select(Window).where(or_(*wanted)).order_by(col(Window.starts_ms))
    last = {slot_of(window.quota_id, window.value): window for window in (await session.exec(query)).all()}
    for quota in quotas:
        if quota.rollover_cap is not None and quota.slot not in last:
            of_quota = Window.tenant_id == quota.key.subject.tenant_id, Window.quota_id == quota.id
            earlier = Window.value == quota.value, Window.starts_ms <= now_ms
            latest = select(Window).where(*of_quota, *earlier).order_by(col(Window.starts_ms).desc())
            if (found := (await session.exec(latest.limit(1))).first()) is not None:
                last[quota.slot] = found
    due = [window.due_ms for window in last.values() if window.due_ms is not None and window.due_ms <= now_ms]
    ended = [window.ends_ms for window in last.values() if window.ends_ms is not None and window.ends_ms <= now_ms]
    since_ms, temporary = min([*due, *ended], default=now_ms), dict[int, Temporary]()
    if due or any((quota.overrides_end_ms or 0) > since_ms for quota in quotas):
        temporary = await _temporary_of(session, quotas, since_ms)
    return [
        balance_of(_current_window(quota, last.get(quota.slot), now_ms, temporary.get(quota.id))) for quota in quotas
    ]


async def _temporary_of(session: AsyncSession, quotas: Sequence[QuotaRow], since_ms: int) -> dict[int, Temporary]:
    """By the quotas' ids: their limits, and their grants and overrides that have not ended before."""
    of_quotas = [
        and_(Temporaries.tenant_id == quota.key.subject.tenant_id, Temporaries.quota_id == quota.id) for quota in quotas
    ]
    query = select(Temporaries).where(Temporaries.ends_ms >= since_ms, or_(*of_quotas))
    rows: dict[int, list[TemporaryRow]] = {quota.id: [] for quota in quotas}
    for one in (await session.exec(query.order_by(col(Temporaries.id)))).all():
        rows[one.quota_id].append(TemporaryRow(**one.model_dump()))
    return {quota.id: Temporary(quota.granted, quota.rollover_cap, rows[quota.id]) for quota in quotas}


async def balances_by_subject(
    session: AsyncSession, tenant_id: int, subjects: Sequence[Subject], now_ms: int
) -> list[list[Balance]]:
    """The balances of each of a tenant's subjects, as `quotas_of` sorts them."""
    user_ids = [subject.user_id for subject in subjects if subject.user_id is not None]
    is_own = Quota.kind == SubjectKind.USER.value
    of_users = Quota.tenant_id == tenant_id, col(Quota.user_id).in_(user_ids), is_own
    rows = (await session.exec(_APPLYING.where(*of_users))).all() if user_ids else []
    of_user: dict[int | None, list[QuotaRow]] = {user_id: [] for user_id in user_ids}
    for quota in map(_quota_row, rows):
        of_user[quota.key.subject.user_id].append(quota)
    templates = await quotas_of(session, Subject(tenant_id, None, SubjectKind.EACH_USER)) if user_ids else []
    owned: list[tuple[int, QuotaRow]] = []
    for place, subject in enumerate(subjects):
        if subject.user_id is None:
            quotas = await quotas_of(session, subject)
        else:
            own = of_user[subject.user_id]
            quotas = _sorted([*own, *not_replaced(templates, value_of(subject), own)])
        owned += [(place, quota) for quota in quotas]
    found: list[list[Balance]] = [[] for _ in subjects]
    balances = await balances_of_quotas(session, [quota for _, quota in owned], now_ms)
    for (place, _), balance in zip(owned, balances, strict=True):
        found[place].append(balance)
    return found


async def effective_key(session: AsyncSession, key: QuotaKey) -> QuotaKey:
    """The quota that its owner has in this unit and period: perhaps one of a template, instead of their own."""
    quotas = await quotas_of(session, key.subject)
    return next((quota.key for quota in quotas if quota.key[1:] == key[1:]), key)


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
    found: list[Charge] = []
    if before is not None:
        month = _month_of(before)
        if month is None:
            raise InvalidRequest("The cursor is not that of a page of charges.")
        # A range of (month, id) is misjudged by PostgreSQL's planner: it would read and sort the whole month.
        of_month = query.where(Charge.month == month, Charge.id < before).order_by(col(Charge.id).desc())
        found += (await session.exec(of_month.limit(limit))).all()
        query = query.where(Charge.month < month)
    if len(found) < limit:
        query = query.order_by(col(Charge.month).desc(), col(Charge.id).desc())
        found += (await session.exec(query.limit(limit - len(found)))).all()
    return found


async def charge(session: AsyncSession, charge_id: str, scope: TenantScope, *, user_id: int | None = None) -> Charge:
    """One charge in this scope; with `user_id`, only if it is that user's. Raises NotFound, ChargeArchived.

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
        await _refuse_archived(session, month)
        raise NotFound
    return found


async def _refuse_archived(session: AsyncSession, month: int) -> None:
    """Raise ChargeArchived if this month is archived."""
    archives = select(Archive.month).where(Archive.month >= month, Archive.first_month <= month).limit(1)
    if (await session.exec(archives)).first() is not None:
        raise ChargeArchived


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
            select(Entry, Quota, Window.value)
            .join(key, and_(*same))
            .join(Window, and_(col(Window.tenant_id) == Entry.tenant_id, col(Window.id) == Entry.window_id))
            .join(Quota, col(Quota.id) == Window.quota_id)
            .where(*of_charge)
            .order_by(col(Entry.at_ms), col(Entry.window_id), col(Entry.sequence))
        )
    ).all()
    return [(entry, _quota_row((quota, *UTC_CALENDAR)).of(value).name) for entry, quota, value in rows]


def _quota_row(found: tuple[Quota, str, int]) -> QuotaRow:
    """From a quota, and the time zone and reset day of its tenant."""
    quota, *calendar = found
    owner = quota.tenant_id, quota.user_id, quota.kind, quota.subject
    of_quota = quota.id, *owner, quota.unit, quota.period, quota.granted
    settings = quota.report_only, quota.fallback_model, quota.overrides_end_ms, quota.rollover_cap
    return quota_row((*of_quota, *calendar, *settings))


def _current_window(quota: QuotaRow, last: Window | None, now_ms: int, temporary: Temporary | None) -> WindowRow:
    """The current window of a quota, whose last one that has started is `last`, with what is due by now."""
    rows = temporary.rows if temporary is not None else NO_TEMPORARY
    if last is None:
        return new_window(quota, now_ms, temporary=rows)
    balances = last.granted, last.settled, last.pending, last.forgiven
    window = WindowRow(last.id or 0, quota, last.starts_ms, last.ends_ms, *balances, report_only=last.report_only)
    window.override, window.due_ms, window.rolled, window.base = last.override, last.due_ms, last.rolled, last.base
    if not window.covers(now_ms):
        return with_rollover(new_window(quota, now_ms, last.ends_ms, temporary=rows), window, rows)
    return as_due(window, temporary, now_ms)
