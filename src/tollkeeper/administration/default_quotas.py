"""The quotas of new users: what their tenant has set as the default.

They are given after the users are committed. If the process ends between the two, a user has no quota, and can spend
nothing, until the request is repeated or a quota is set.
"""

from collections.abc import Sequence

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.db import Database
from tollkeeper.identity.models import Tenant, User
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.models import Quota, Unit
from tollkeeper.quota.rules.operations import SetLimit
from tollkeeper.quota.rules.page import QuotaKey, Subject
from tollkeeper.quota.rules.windows import Period

REASON = "default quota of the tenant"
USERS_PER_OPERATION = 500


async def give_default_quotas(database: Database, ledger: Ledger, user_ids: Sequence[int], *, actor: str) -> None:
    """Give each of these users the default quota of their tenant, if there is one, unless they have a token quota.

    No transaction may be open. Raises LedgerUnavailable, DatabaseUnavailable.
    """
    async with database.session() as session:
        limits = await missing_limits(session, user_ids)
    for start in range(0, len(limits), USERS_PER_OPERATION):
        await ledger.administer(tuple(limits[start : start + USERS_PER_OPERATION]), actor=actor, reason=REASON)


async def missing_limits(session: AsyncSession, user_ids: Sequence[int]) -> list[SetLimit]:
    """The default quotas that these users do not have yet."""
    limits: list[SetLimit] = []
    for start in range(0, len(user_ids), USERS_PER_OPERATION):
        some = user_ids[start : start + USERS_PER_OPERATION]
        own_quota = select(Quota.id).where(Quota.user_id == User.id, Quota.unit == Unit.TOKENS.value)
        query = (
            select(User.id, Tenant.id, Tenant.default_limit, Tenant.default_period)
            .join(Tenant, col(Tenant.id) == User.tenant_id)
            .where(col(User.id).in_(some), col(Tenant.default_limit).is_not(None), ~own_quota.exists())
        )
        for user_id, tenant_id, limit, period in (await session.exec(query)).all():
            assert tenant_id is not None
            assert limit is not None
            assert period is not None
            key = QuotaKey(Subject(tenant_id, user_id), Unit.TOKENS, Period(period))
            limits.append(SetLimit(key, limit, REASON))
    return limits
