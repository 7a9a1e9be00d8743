"""The quotas of new users: what their tenant has set as the default, or its plan.

They are given after the users are committed. If the process ends between the two, a user has no quota, and can spend
nothing, until the request is repeated or a quota is set.
"""

from collections.abc import Sequence

from sqlmodel import col, or_, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.configuration.models import Plan
from tollkeeper.configuration.plans import PlanQuota, read_terms
from tollkeeper.database.engine import Database
from tollkeeper.identity.models import Tenant, User
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.limit_changes import SetLimit
from tollkeeper.quota.rules.models import Quota, Unit
from tollkeeper.quota.rules.page import QuotaKey, Subject
from tollkeeper.quota.rules.subjects import SubjectKind
from tollkeeper.quota.rules.windows import Period

REASON = "default quota"
USERS_PER_OPERATION = 500


async def give_default_quotas(database: Database, ledger: Ledger, user_ids: Sequence[int], *, actor: str) -> None:
    """Give each of these users the default quotas of their tenant, if there are any, in units in which they have none.

    No transaction may be open. Raises LedgerUnavailable, DatabaseUnavailable.
    """
    async with database.session() as session:
        limits = await missing_limits(session, user_ids)
    for start in range(0, len(limits), USERS_PER_OPERATION):
        await ledger.administer(tuple(limits[start : start + USERS_PER_OPERATION]), actor=actor, reason=REASON)


async def missing_limits(session: AsyncSession, user_ids: Sequence[int]) -> list[SetLimit]:
    """The default quotas that these users do not have yet: those of the tenant's plan in each unit in which a user has
    none. The tenant's own default stands for those in tokens.
    """
    limits: list[SetLimit] = []
    for start in range(0, len(user_ids), USERS_PER_OPERATION):
        some = user_ids[start : start + USERS_PER_OPERATION]
        query = (
            select(User.id, Tenant, Plan)
            .join(Tenant, col(Tenant.id) == User.tenant_id)
            .join(Plan, col(Plan.id) == Tenant.plan_id, isouter=True)
            .where(col(User.id).in_(some), or_(col(Tenant.default_limit).is_not(None), col(Plan.id).is_not(None)))
        )
        found = (await session.exec(query)).all()
        are_theirs = col(Quota.user_id).in_(some), Quota.kind == SubjectKind.USER.value
        with_unit = set((await session.exec(select(Quota.user_id, Quota.unit).where(*are_theirs))).all())
        for user_id, tenant, plan in found:
            assert tenant.id is not None
            for quota in _defaults(tenant, plan):
                if (user_id, quota.unit) not in with_unit:
                    key = QuotaKey(Subject(tenant.id, user_id), Unit(quota.unit), Period(quota.window))
                    limits.append(SetLimit(key, quota.limit, REASON))
    return limits


def _defaults(tenant: Tenant, plan: Plan | None) -> list[PlanQuota]:
    """The quotas of a new user, by the tenant's own default and its plan."""
    of_plan = list(read_terms(plan.document).user_quotas) if plan is not None else []
    if tenant.default_limit is None or tenant.default_period is None:
        return of_plan
    own = PlanQuota(Period(tenant.default_period).value, tenant.default_limit)
    return [own, *(quota for quota in of_plan if quota.unit != own.unit)]
