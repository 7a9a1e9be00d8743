"""Give new users the default quota of their tenant."""

from collections.abc import Sequence

from sqlmodel import col, select

from tollkeeper.cli.context import Administration
from tollkeeper.identity.models import Tenant


async def give_quotas(administration: Administration, tenant_ids: Sequence[int], user_ids: Sequence[int]) -> None:
    """Commit the new users, and give them the default quotas of their tenants, if there are any.

    Raises LedgerUnavailable.
    """
    session, context = administration.admin.session, administration.context
    with_default = select(Tenant.id).where(col(Tenant.id).in_(set(tenant_ids)), col(Tenant.default_limit).is_not(None))
    has_default = (await session.exec(with_default.limit(1))).first() is not None
    await session.commit()
    if not has_default:
        return
    from tollkeeper.administration.default_quotas import give_default_quotas  # both load what other commands
    from tollkeeper.cli.open_ledger import open_ledger  # about users do not need

    async with open_ledger(context.settings) as ledger:
        await give_default_quotas(context.database, ledger, user_ids, actor=administration.admin.name)
