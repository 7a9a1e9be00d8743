"""Whose rows a query may see. Every query of a tenant's rows takes a scope, so that none can forget it."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, true

from tollkeeper.errors import NotFound


@dataclass(frozen=True, slots=True)
class TenantScope:
    """The rows of one tenant, or, if `tenant_id` is None, of all. Only operators have the scope of all tenants."""

    tenant_id: int | None

    def condition(self, tenant_id: Any) -> ColumnElement[bool]:
        """The condition for a WHERE clause, on the column that has the tenant's id."""
        if self.tenant_id is None:
            return true()
        owned: ColumnElement[bool] = tenant_id == self.tenant_id
        return owned

    def narrow(self, tenant_id: int | None) -> "TenantScope":
        """The part of this scope that is one tenant's; the whole, without a tenant. Raises NotFound for another's."""
        if tenant_id is None:
            return self
        if self.tenant_id not in (None, tenant_id):
            raise NotFound
        return TenantScope(tenant_id)


ALL_TENANTS = TenantScope(None)
