"""Reads reports of usage from the roll-ups.

What is asked for of all users of a tenant is read from the sums of days in UTC, and the first and last hours, where the
report begins or ends within such a day, from the buckets. What is asked for of one user or one tag is read from the
buckets, of a user by their index.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.identity.models import ApiKey, Tenant, User, UserGroup
from tollkeeper.tags import split_tag
from tollkeeper.tenant_scope import TenantScope
from tollkeeper.usage.buckets import DAY_MS, MEASURES, NOTHING, Sums, add, first_id, tags_of
from tollkeeper.usage.periods import ReportPeriod

LABELS_PER_QUERY = 500


class GroupBy(StrEnum):
    """What the lines of a report are."""

    HOUR = "hour"
    DAY = "day"
    MODEL = "model"
    PROVIDER = "provider"
    USER = "user"
    KEY = "key"
    SURFACE = "surface"
    GROUP = "group"
    TAG = "tag"
    TENANT = "tenant"

    @property
    def is_time(self) -> bool:
        """Whether the lines follow each other in time."""
        return self in (GroupBy.HOUR, GroupBy.DAY)


class ReportLine(NamedTuple):
    """The sums of one hour, model, user, … . `value` is empty for calls without an API key, a group or a tag."""

    value: str
    sums: Sums


class Report(NamedTuple):
    """Lines in the order of time, or else by cost. `is_complete`: every call that has ended is in it; if not, the
    next run of the roll-ups adds some.
    """

    lines: list[ReportLine]
    total: Sums
    is_complete: bool


_OF_DAYS: dict[GroupBy, tuple[str, str]] = {
    GroupBy.HOUR: ("time", "value"),
    GroupBy.DAY: ("time", "value"),
    GroupBy.MODEL: ("model", "value"),
    GroupBy.PROVIDER: ("model", "provider"),
    GroupBy.GROUP: ("model", "CAST(group_id AS varchar)"),
    GroupBy.USER: ("user", "value"),
    GroupBy.KEY: ("key", "value"),
    GroupBy.SURFACE: ("surface", "value"),
    GroupBy.TAG: ("tag", "value"),
    GroupBy.TENANT: ("surface", "CAST(tenant_id AS varchar)"),
}
"""The dimension of the rows of days, and the value of a line."""
_OF_BUCKETS: dict[GroupBy, str] = {
    GroupBy.HOUR: "CAST(bucket_ms AS varchar)",
    GroupBy.DAY: "CAST(bucket_ms AS varchar)",
    GroupBy.MODEL: "model",
    GroupBy.PROVIDER: "provider",
    GroupBy.GROUP: "CAST(group_id AS varchar)",
    GroupBy.USER: "CAST(user_id AS varchar)",
    GroupBy.KEY: "key_id",
    GroupBy.SURFACE: "surface",
    GroupBy.TAG: "tags",
    GroupBy.TENANT: "CAST(tenant_id AS varchar)",
}
_SUMS = ", ".join(f"CAST(sum({name}) AS bigint)" for name in MEASURES)
_NO_GROUP = "0"


class OfCalls(NamedTuple):
    """Which calls a report is about: of a user; with a tag, as `name=value`, or of this name with any value."""

    user_id: int | None = None
    tag: str | None = None

    @property
    def is_all(self) -> bool:
        """Whether it is about all calls of the tenants."""
        return self.user_id is None and self.tag is None

    @property
    def condition(self) -> str:
        """The condition on the rows of buckets."""
        of_user = "" if self.user_id is None else " AND user_id = :user_id"
        return of_user if self.tag is None else f"{of_user} AND replace(tags, :tag, '') <> tags"

    @property
    def values(self) -> dict[str, Any]:
        """The parameters of the condition. Names and values have no character that JSON escapes."""
        values: dict[str, Any] = {} if self.user_id is None else {"user_id": self.user_id}
        if self.tag is not None:
            name, value = split_tag(self.tag)
            values["tag"] = f'"{name}":"{value}"' if value else f'"{name}":'
        return values

    def shows(self, tag: str) -> bool:
        """Whether a report by tag has a line for it: with only a name, for each of its values."""
        return self.tag is None or "=" in self.tag or tag.startswith(f"{self.tag}=")


ALL_CALLS = OfCalls()


async def read_report(
    session: AsyncSession, scope: TenantScope, period: ReportPeriod, group_by: GroupBy, of_calls: OfCalls = ALL_CALLS
) -> Report:
    """What was spent in the period by the tenants of this scope, for these calls."""
    lines = await _read_lines(session, scope, period, group_by, of_calls)
    parts = lines
    if group_by is GroupBy.TAG:  # a call has any number of tags
        lines = [line for line in lines if of_calls.shows(line.value)]
        parts = await _read_lines(session, scope, period, GroupBy.SURFACE, of_calls)
    total = NOTHING
    for line in parts:
        total = add(total, line.sums)
    return Report(lines, total, await _is_complete(session, scope, period))


async def _read_lines(
    session: AsyncSession, scope: TenantScope, period: ReportPeriod, group_by: GroupBy, of_calls: OfCalls
) -> list[ReportLine]:
    if not of_calls.is_all:
        found = await _read_buckets(session, scope, (period.from_ms, period.to_ms), group_by, of_calls)
    elif group_by.is_time:
        found = await _read_times(session, scope, period)
    else:
        found = await _read_days_and_ends(session, scope, period, group_by)
    if group_by.is_time:
        name = period.hour_of if group_by is GroupBy.HOUR else period.day_of
        return _added((name(int(value)), sums) for value, sums in sorted(found))
    if group_by is GroupBy.GROUP:
        found = [("" if value == _NO_GROUP else value, sums) for value, sums in found]
    cost = MEASURES.index("cost_tokens")
    return sorted(_added(found), key=lambda line: (-line.sums[cost], line.value))


Found = list[tuple[str, Sums]]


async def _read_times(session: AsyncSession, scope: TenantScope, period: ReportPeriod) -> Found:
    """The sums of each bucket: the rows of days have them, too."""
    times = {"first": str(period.from_ms), "after": str(period.to_ms)}
    days = {"first_day": period.from_ms - period.from_ms % DAY_MS, "day_after": period.to_ms}
    condition = f"{_of(scope)} AND dimension = 'time' AND value >= :first AND value < :after"
    return await _read(session, scope, "usage_days", "value", f"{condition} AND {_IN_DAYS}", times | days)


async def _read_days_and_ends(
    session: AsyncSession, scope: TenantScope, period: ReportPeriod, group_by: GroupBy
) -> Found:
    first_day = period.from_ms + -period.from_ms % DAY_MS
    day_after = period.to_ms - period.to_ms % DAY_MS
    if first_day >= day_after:
        return await _read_buckets(session, scope, (period.from_ms, period.to_ms), group_by)
    dimension, value = _OF_DAYS[group_by]
    condition = f"{_of(scope)} AND dimension = '{dimension}' AND {_IN_DAYS}"
    days = {"first_day": first_day, "day_after": day_after}
    found = await _read(session, scope, "usage_days", value, condition, days)
    for end in ((period.from_ms, first_day), (day_after, period.to_ms)):
        if end[0] < end[1]:
            found += await _read_buckets(session, scope, end, group_by)
    return found


async def _read_buckets(
    session: AsyncSession,
    scope: TenantScope,
    span: tuple[int, int],
    group_by: GroupBy,
    of_calls: OfCalls = ALL_CALLS,
) -> Found:
    condition = f"{_of(scope)} AND bucket_ms >= :first AND bucket_ms < :after{of_calls.condition}"
    values: dict[str, Any] = {"first": span[0], "after": span[1], **of_calls.values}
    found = await _read(session, scope, "usage_buckets", _OF_BUCKETS[group_by], condition, values)
    if group_by is GroupBy.TAG:
        return [(tag, sums) for tags, sums in found for tag in tags_of(tags)]
    return found


_IN_DAYS = "day_ms >= :first_day AND day_ms < :day_after"


def _of(scope: TenantScope) -> str:
    """The condition on the tenant. All tenants are named, so that the key's index serves."""
    return "tenant_id IN (SELECT id FROM tenants)" if scope.tenant_id is None else "tenant_id = :tenant_id"


async def _read(
    session: AsyncSession, scope: TenantScope, table: str, value: str, condition: str, values: dict[str, Any]
) -> Found:
    statement = text(f"SELECT {value}, {_SUMS} FROM {table} WHERE {condition} GROUP BY 1")
    if scope.tenant_id is not None:
        values = values | {"tenant_id": scope.tenant_id}
    connection = await session.connection()
    return [(row[0], tuple(row[1:])) for row in await connection.execute(statement, values)]


def _added(found: Iterable[tuple[str, Sums]]) -> list[ReportLine]:
    """One line for each value, in the order of the first."""
    lines: dict[str, Sums] = {}
    for value, sums in found:
        before = lines.get(value)
        lines[value] = sums if before is None else add(before, sums)
    return [ReportLine(value, sums) for value, sums in lines.items() if any(sums)]


async def _is_complete(session: AsyncSession, scope: TenantScope, period: ReportPeriod) -> bool:
    statement = text(
        f"SELECT 1 FROM usage_changes WHERE {_of(scope)} AND charge_id >= :first AND charge_id < :after LIMIT 1"
    )
    values: dict[str, Any] = {"first": first_id(period.from_ms), "after": first_id(period.to_ms)}
    if scope.tenant_id is not None:
        values["tenant_id"] = scope.tenant_id
    return (await (await session.connection()).execute(statement, values)).first() is None


async def read_labels(
    session: AsyncSession, scope: TenantScope, group_by: GroupBy, values: Iterable[str]
) -> dict[str, str]:
    """The e-mail address of each user, the name of each API key, group or tenant, by the values of lines. Of the other
    lines, there is none.
    """
    wanted = [value for value in values if value]
    labels: dict[str, str] = {}
    for first in range(0, len(wanted), LABELS_PER_QUERY):
        some = wanted[first : first + LABELS_PER_QUERY]
        if group_by is GroupBy.USER:
            users = select(User.id, User.email).where(scope.condition(User.tenant_id), col(User.id).in_(map(int, some)))
            labels |= {str(user_id): email for user_id, email in (await session.exec(users)).all()}
        elif group_by is GroupBy.KEY:
            keys = select(ApiKey.id, ApiKey.name).where(scope.condition(ApiKey.tenant_id), col(ApiKey.id).in_(some))
            labels |= dict((await session.exec(keys)).all())
        elif group_by is GroupBy.GROUP:
            groups = select(UserGroup.id, UserGroup.name).where(
                scope.condition(UserGroup.tenant_id), col(UserGroup.id).in_(map(int, some))
            )
            labels |= {str(group_id): name for group_id, name in (await session.exec(groups)).all()}
        elif group_by is GroupBy.TENANT:
            tenants = select(Tenant.id, Tenant.name).where(
                scope.condition(Tenant.id), col(Tenant.id).in_(map(int, some))
            )
            labels |= {str(tenant_id): name for tenant_id, name in (await session.exec(tenants)).all()}
    return labels
