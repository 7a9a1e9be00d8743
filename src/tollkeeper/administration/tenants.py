"""Tenants: create, find, change, disable and enable."""

from typing import Any

from sqlmodel import col, select

from tollkeeper.administration.administrator import Administrator
from tollkeeper.errors import Forbidden, InvalidRequest, NotFound
from tollkeeper.identity import accounts
from tollkeeper.identity.models import Tenant, User, UserKind
from tollkeeper.quota.rules.windows import MAX_GRANTED, UTC_CALENDAR, Calendar, Period
from tollkeeper.quota.time_zones import time_zone_names
from tollkeeper.response_cache.questions import CacheScope

MAX_RESET_DAY = 31


async def create_tenant(
    admin: Administrator,
    name: str,
    *,
    default_limit: int | None = None,
    default_period: str | None = None,
    calendar: Calendar = UTC_CALENDAR,
) -> Tenant:
    """A tenant, with a default quota of new users if one is given.

    Raises Forbidden unless the administrator is an operator; InvalidRequest for the name, the quota or the calendar.
    """
    admin.require_operator()
    quota = check_default_quota(default_limit, default_period)
    require_calendar(calendar)
    tenant = await accounts.create_tenant(admin.session, name)
    tenant.default_limit, tenant.default_period = quota
    tenant.time_zone, tenant.reset_day = calendar
    await admin.session.flush()
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


async def wanted_tenant(admin: Administrator, tenant_id: int | None, *, to_change: bool = False) -> int:
    """The id of the tenant that a request names, by default the administrator's own. Raises InvalidRequest if there is
    none to take; NotFound for one that the administrator may not see.
    """
    wanted = admin.tenant_id if tenant_id is None else tenant_id
    if wanted is None:
        raise InvalidRequest("Name the tenant.")
    await get_tenant(admin, wanted, to_change=to_change)
    return wanted


async def require_service_account(admin: Administrator, tenant_id: int, user_id: int, parameter: str) -> None:
    """Raise InvalidRequest unless it is a service account of the tenant."""
    is_theirs = User.id == user_id, User.tenant_id == tenant_id, User.kind == UserKind.SERVICE
    if (await admin.session.exec(select(col(User.id)).where(*is_theirs))).first() is None:
        raise InvalidRequest(f"{parameter} is not a service account of this tenant.", parameter=parameter)


async def list_tenants(admin: Administrator, *, after: int | None, limit: int) -> list[Tenant]:
    """At most `limit` tenants by id, those that the administrator may see; with `after`, those with greater ids."""
    query = select(Tenant).where(admin.scope.condition(col(Tenant.id)))
    if after is not None:
        query = query.where(col(Tenant.id) > after)
    return list((await admin.session.exec(query.order_by(col(Tenant.id)).limit(limit))).all())


async def change_tenant(admin: Administrator, tenant: Tenant, changes: dict[str, Any]) -> Tenant:
    """Change fields of a tenant: `name`, `disabled`, its calendar (`time_zone`, `reset_day`), the default quota of new
    users, and whether the contents of calls are stored (`content_logging`), for how long (`content_days`), for whom the
    response `cache` is on, the model and the rubric that rate answers (`judge_model`, `judge_rubric`), and the share of
    them that is rated anyway (`evaluate_share`), at whose cost (`evaluate_account`). Absent ones stay.

    Raises Forbidden for what only an operator may change (name, state and calendar), or only the tenant itself;
    StepUpRequired; InvalidRequest.
    """
    assert tenant.id is not None
    if not admin.is_operator and changes.keys() & {"name", "disabled"}:
        raise Forbidden("Only operators may rename, disable or enable a tenant.")
    if changes.keys() & {"time_zone", "reset_day"}:
        _change_calendar(admin, tenant, changes)
    before = record_of(tenant)
    if "name" in changes:
        await accounts.rename_tenant(admin.session, tenant, changes["name"])
    if "disabled" in changes:
        set_enabled(admin, tenant, enabled=not changes["disabled"])
    if changes.keys() & {"default_limit", "default_period"}:
        limit = changes.get("default_limit", tenant.default_limit)
        period = changes.get("default_period", tenant.default_period)
        tenant.default_limit, tenant.default_period = check_default_quota(limit, period)
    if changes.keys() & {"content_logging", "content_days"}:
        _change_content_logging(admin, tenant, changes)
    if "cache" in changes:
        tenant.cache_scope = changes["cache"] if changes["cache"] != CacheScope.OFF else None
    await _change_judge(admin, tenant, changes)
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


def _change_calendar(admin: Administrator, tenant: Tenant, changes: dict[str, Any]) -> None:
    """It takes effect when the current windows end. It moves those of the tenant's own quota, too."""
    if not admin.is_operator:
        raise Forbidden("Only operators may change the time zone and the reset day of a tenant.")
    calendar = Calendar(changes.get("time_zone", tenant.time_zone), changes.get("reset_day", tenant.reset_day))
    require_calendar(calendar)
    tenant.time_zone, tenant.reset_day = calendar


async def _change_judge(admin: Administrator, tenant: Tenant, changes: dict[str, Any]) -> None:
    """Raises InvalidRequest for a share of answers that no judge rates, or that no service account pays for."""
    assert tenant.id is not None
    for name in ("judge_model", "judge_rubric", "evaluate_share", "evaluate_account"):
        setattr(tenant, name, changes.get(name, getattr(tenant, name)))
    if tenant.evaluate_account is not None and "evaluate_account" in changes:
        await require_service_account(admin, tenant.id, tenant.evaluate_account, "evaluate_account")
    if tenant.evaluate_share and (tenant.judge_model is None or tenant.evaluate_account is None):
        detail = "evaluate_share needs judge_model, and evaluate_account, which pays. Set all three, or a share of 0."
        raise InvalidRequest(detail, parameter="evaluate_share")


def _change_content_logging(admin: Administrator, tenant: Tenant, changes: dict[str, Any]) -> None:
    """A tenant turns content logging on for itself, since its users' prompts are not for others; an operator may turn
    it off.
    """
    if changes != {"content_logging": False} and admin.tenant_id != tenant.id:
        raise Forbidden("Only an administrator of the tenant itself can turn content logging on.")
    if changes.get("content_logging"):
        admin.require_fresh_login()
    tenant.content_logging = changes.get("content_logging", tenant.content_logging)
    tenant.content_days = changes.get("content_days", tenant.content_days)


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


def require_calendar(calendar: Calendar) -> None:
    """Raise InvalidRequest for a time zone that does not exist, or a day that no month has."""
    if calendar.time_zone not in time_zone_names():
        raise InvalidRequest("There is no such time zone. Use a name of the IANA database, such as Europe/Berlin.")
    if not 1 <= calendar.reset_day <= MAX_RESET_DAY:
        raise InvalidRequest(f"The reset day is between 1 and {MAX_RESET_DAY}.")


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
        "time_zone": tenant.time_zone,
        "reset_day": tenant.reset_day,
        "content_logging": tenant.content_logging,
        "content_days": tenant.content_days,
        "cache": tenant.cache_scope or CacheScope.OFF.value,
        "judge_model": tenant.judge_model,
        "judge_rubric": tenant.judge_rubric,
        "evaluate_share": tenant.evaluate_share,
        "evaluate_account": tenant.evaluate_account,
    }
