"""Tenants: create, find, change, disable and enable."""

from typing import Any

from sqlmodel import col, select

from tollkeeper.administration.administrator import Administrator
from tollkeeper.errors import Forbidden, InvalidRequest, NotFound
from tollkeeper.identity import accounts
from tollkeeper.identity.models import Tenant
from tollkeeper.quota.rules.windows import MAX_GRANTED, Period


async def create_tenant(admin: Administrator, name: str) -> Tenant:
    """Raises Forbidden unless the administrator is an operator; InvalidRequest for the name."""
    admin.require_operator()
    tenant = await accounts.create_tenant(admin.session, name)
    assert tenant.id is not None
    await admin.note(tenant.id, "tenant.create", target_of(tenant), after=record_of(tenant))
    return tenant


async def get_tenant(admin: Administrator, tenant_id: int, *, to_change: bool = False) -> Tenant:
    """The tenant of that id, if the administrator may see it; locked, if it is to be changed. Raises NotFound."""
    query = select(Tenant).where(Tenant.id == tenant_id, admin.scope.condition(col(Tenant.id)))
    if to_change:
        query = query.with_for_update()
    tenant = (await admin.session.exec(query)).first()
    if tenant is None:
        raise NotFound
    return tenant


async def list_tenants(admin: Administrator, *, after: int | None, limit: int) -> list[Tenant]:
    """At most `limit` tenants by id, those that the administrator may see; with `after`, those with greater ids."""
    query = select(Tenant).where(admin.scope.condition(col(Tenant.id)))
    if after is not None:
        query = query.where(col(Tenant.id) > after)
    return list((await admin.session.exec(query.order_by(col(Tenant.id)).limit(limit))).all())


async def change_tenant(admin: Administrator, tenant: Tenant, changes: dict[str, Any]) -> Tenant:
    """Change fields of a tenant: `name`, `disabled`, and the default quota of new users. Absent fields stay.

    Raises Forbidden for what only an operator may change: name and state; InvalidRequest.
    """
    assert tenant.id is not None
    if not admin.is_operator and changes.keys() & {"name", "disabled"}:
        raise Forbidden("Only operators may rename, disable or enable a tenant.")
    before = record_of(tenant)
    if "name" in changes:
        await accounts.rename_tenant(admin.session, tenant, changes["name"])
    if "disabled" in changes:
        set_enabled(admin, tenant, enabled=not changes["disabled"])
    if changes.keys() & {"default_limit", "default_period"}:
        limit = changes.get("default_limit", tenant.default_limit)
        period = changes.get("default_period", tenant.default_period)
        tenant.default_limit, tenant.default_period = check_default_quota(limit, period)
    after = record_of(tenant)
    if after != before:
        await admin.session.flush()
        await admin.note(
            tenant.id,
            "tenant.change",
            target_of(tenant),
            before=differences(after, before),
            after=differences(before, after),
        )
    return tenant


def set_enabled(admin: Administrator, tenant: Tenant, *, enabled: bool) -> None:
    """Admit a tenant, or refuse it from the next request on."""
    if enabled:
        accounts.enable(tenant)
    else:
        accounts.disable(tenant, admin.now_ms)


def check_default_quota(limit: int | None, period: str | None) -> tuple[int | None, str | None]:
    """Returns both, or neither, if there is to be no default quota. Raises InvalidRequest."""
    if limit is None and period is None:
        return None, None
    if limit is None or period is None:
        raise InvalidRequest("A default quota has a limit and a window: set both, or neither.")
    if not 0 <= limit <= MAX_GRANTED:
        raise InvalidRequest(f"A limit is between 0 and {MAX_GRANTED}.")
    if period not in {one.value for one in Period}:
        raise InvalidRequest(f"A window is one of: {', '.join(Period)}.")
    return limit, period


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Those fields of `after` that differ from `before`."""
    return {name: value for name, value in after.items() if value != before.get(name)}


def target_of(tenant: Tenant) -> str:
    """How the audit log names a tenant."""
    return f"tenant:{tenant.id}"


def record_of(tenant: Tenant) -> dict[str, Any]:
    """The fields of a tenant for the audit log."""
    return {
        "name": tenant.name,
        "disabled": tenant.disabled_at is not None,
        "default_limit": tenant.default_limit,
        "default_period": tenant.default_period,
    }
