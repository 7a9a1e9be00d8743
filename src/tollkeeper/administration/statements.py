"""Statements for administrators."""

from tollkeeper.administration import tenants
from tollkeeper.administration.administrator import Administrator
from tollkeeper.errors import NotFound
from tollkeeper.quota.partition_months import parse_month
from tollkeeper.tenant_scope import TenantScope
from tollkeeper.usage.reports import GroupBy, read_labels
from tollkeeper.usage.statement_parts import Statement
from tollkeeper.usage.statements import TenantStatements


async def read_statement(admin: Administrator, tenant_id: int, month: str) -> tuple[Statement, str, dict[int, str]]:
    """The statement of a tenant's month, which is written as 2026-11, the tenant's name, and those of its groups.

    Raises NotFound for a tenant that the administrator may not see, a month without a statement, and what is no month.
    """
    tenant = await tenants.get_tenant(admin, tenant_id)
    try:
        wanted = parse_month(month)
    except ValueError as error:
        raise NotFound(f"There is no such statement: {error}.") from None
    statements = await TenantStatements.open(admin.session, tenant_id)
    statement = await statements.read(wanted, admin.now_ms)
    spent = [statement.spent, *statement.corrections.values()]
    groups = {str(key.group_id) for lines in spent for key in lines if key.group_id}
    names = await read_labels(admin.session, TenantScope(tenant_id), GroupBy.GROUP, sorted(groups))
    return statement, tenant.name, {int(group_id): name for group_id, name in names.items()}
