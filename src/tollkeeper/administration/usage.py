"""Reports of usage for administrators: of a tenant or one of its users, or of the whole installation."""

from datetime import date, datetime
from typing import NamedTuple

from tollkeeper.administration import tenants
from tollkeeper.administration.administrator import Administrator
from tollkeeper.administration.users import get_user
from tollkeeper.errors import InvalidRequest
from tollkeeper.quota.rules.windows import UTC_CALENDAR, Calendar
from tollkeeper.usage.periods import ReportPeriod, report_period
from tollkeeper.usage.reports import GroupBy, OfCalls, Report, read_labels, read_report


class Question(NamedTuple):
    """What a report is about. Without a tenant, it is about all that the administrator may see."""

    group_by: GroupBy
    tenant_id: int | None = None
    user_id: int | None = None
    from_: datetime | date | None = None
    to: datetime | date | None = None
    tag: str | None = None
    """A tag of the calls, as `name=value`, or only its name."""


class Answer(NamedTuple):
    """A report, its time, and the names of its lines."""

    report: Report
    period: ReportPeriod
    labels: dict[str, str]


async def read_usage(admin: Administrator, question: Question) -> Answer:
    """What was spent. Raises NotFound for a tenant or a user that the administrator may not see, InvalidRequest."""
    scope, user_id, calendar = admin.scope.narrow(question.tenant_id), question.user_id, UTC_CALENDAR
    if user_id is not None:
        user = await get_user(admin, user_id)
        scope = scope.narrow(user.tenant_id)
    if scope.tenant_id is not None:
        tenant = await tenants.get_tenant(admin, scope.tenant_id)
        calendar = Calendar(tenant.time_zone, tenant.reset_day)
    if question.group_by is GroupBy.TENANT and scope.tenant_id is not None:
        raise InvalidRequest("A report by tenant is about all tenants. Operators ask for it, without a tenant.")
    by_hour = question.group_by is GroupBy.HOUR
    period = report_period(question.from_, question.to, admin.now_ms, calendar, by_hour=by_hour)
    report = await read_report(admin.session, scope, period, question.group_by, OfCalls(user_id, question.tag))
    labels = await read_labels(admin.session, scope, question.group_by, (line.value for line in report.lines))
    return Answer(report, period, labels)
