"""The scores of a tenant's answers."""

from datetime import date

from tollkeeper.administration import tenants
from tollkeeper.administration.administrator import Administrator
from tollkeeper.administration.day_ranges import days_between
from tollkeeper.scores.counts import ScoreGroup, ScoreGrouping, list_scores


async def scores(
    admin: Administrator, tenant_id: int | None, group_by: ScoreGrouping, first: date | None, last: date | None
) -> list[ScoreGroup]:
    """The scores of a tenant, by default the administrator's own, on these days (UTC), both included; by default in the
    last 30. Raises NotFound, InvalidRequest.
    """
    owner = await tenants.wanted_tenant(admin, tenant_id)
    days = days_between(admin.now_ms, first, last)
    return await list_scores(admin.session, admin.scope.narrow(owner), group_by, *days)
