"""`tollkeeper tenant`: create, list, disable and enable tenants."""

import asyncio
from typing import Annotated, Any

import typer

from tollkeeper.administration import tenants
from tollkeeper.cli.arguments import parse_name, parse_number
from tollkeeper.cli.context import open_administration, open_context
from tollkeeper.cli.output import AsJson, print_json, print_line, print_table
from tollkeeper.cli.quota_arguments import parse_amount, parse_window
from tollkeeper.errors import InvalidRequest
from tollkeeper.identity import accounts
from tollkeeper.identity.models import Tenant
from tollkeeper.quota.rules.windows import UTC_CALENDAR, Period

app = typer.Typer(
    name="tenant", help="Create, list, disable and enable tenants.", no_args_is_help=True, add_completion=False
)

COLUMNS = ("id", "tenant", "state", "created")

Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="The tenant's name.")]


Limit = Annotated[str | None, typer.Option(metavar="TOKENS", help="The quota of each user who is created without one.")]
Window = Annotated[
    str | None,
    typer.Option(metavar="minute|hour|day|week|month|total", help="The window. Default: month."),
]

TimeZone = Annotated[
    str | None, typer.Option(metavar="ZONE", help="Where days begin at midnight, such as Europe/Berlin. Default: UTC.")
]
ResetDay = Annotated[
    str | None, typer.Option(metavar="1-31", help="The day on which months begin, or their last one. Default: 1.")
]


@app.command()
def create(
    name: Name,
    default_limit: Limit = None,
    default_window: Window = None,
    time_zone: TimeZone = None,
    reset_day: ResetDay = None,
    as_json: AsJson = False,
) -> None:
    """Create a tenant."""
    limit, period = _parse_quota(default_limit, default_window)
    calendar = UTC_CALENDAR._replace(**_calendar_changes(time_zone, reset_day))

    async def create_tenant() -> Tenant:
        async with open_administration() as administration:
            return await tenants.create_tenant(
                administration.admin, name, default_limit=limit, default_period=period, calendar=calendar
            )

    _print_result(asyncio.run(create_tenant()), "created", as_json=as_json)


@app.command()
def default(
    name: Name,
    limit: Limit = None,
    window: Window = None,
    none: Annotated[bool, typer.Option("--none", help="New users get no quota of their own.")] = False,
    as_json: AsJson = False,
) -> None:
    """Set the quota of users who are created from now on. Those that exist keep theirs."""
    if none == (limit is not None) or (none and window is not None):
        raise InvalidRequest("Give either --limit, with a --window if it is not month, or --none.")
    amount, period = _parse_quota(limit, window)

    async def set_default() -> Tenant:
        async with open_administration() as administration:
            tenant = await accounts.get_tenant_by_name(administration.admin.session, parse_name(name))
            changes = {"default_limit": amount, "default_period": period}
            return await tenants.change_tenant(administration.admin, tenant, changes)

    changed = asyncio.run(set_default())
    if as_json:
        print_json(_record(changed))
    elif amount is None:
        print_line(f"New users of the tenant {changed.name} get no quota.")
    else:
        print_line(f"New users of the tenant {changed.name} get {amount:,} tokens, window: {period}.")


@app.command()
def calendar(name: Name, time_zone: TimeZone = None, reset_day: ResetDay = None, as_json: AsJson = False) -> None:
    """Set when the days, weeks and months of a tenant's quotas begin, from the end of the current windows on."""
    changes = _calendar_changes(time_zone, reset_day)
    if not changes:
        raise InvalidRequest("Give --time-zone, --reset-day, or both.")

    async def set_calendar() -> Tenant:
        async with open_administration() as administration:
            tenant = await accounts.get_tenant_by_name(administration.admin.session, parse_name(name))
            return await tenants.change_tenant(administration.admin, tenant, changes)

    changed = asyncio.run(set_calendar())
    if as_json:
        print_json(_record(changed))
    else:
        print_line(
            f"Days of the tenant {changed.name} begin at midnight in {changed.time_zone}, months on day"
            f" {changed.reset_day}, once the current windows have ended."
        )


@app.command(name="list")
def list_(as_json: AsJson = False) -> None:
    """List the tenants."""

    async def read() -> list[Tenant]:
        async with open_context() as context, context.database.session() as session:
            return await accounts.list_tenants(session)

    found = asyncio.run(read())
    if as_json:
        print_json([_record(tenant) for tenant in found])
    else:
        print_table((*COLUMNS, "default quota"), [(*map(str, _row(tenant)), _quota(tenant)) for tenant in found])


@app.command()
def disable(name: Name, as_json: AsJson = False) -> None:
    """Refuse a tenant and its users from the next request on. Calls in flight are settled."""
    _print_result(asyncio.run(_set_enabled(name, enabled=False)), "disabled", as_json=as_json)


@app.command()
def enable(name: Name, as_json: AsJson = False) -> None:
    """Admit a tenant again."""
    _print_result(asyncio.run(_set_enabled(name, enabled=True)), "enabled", as_json=as_json)


def _row(tenant: Tenant) -> tuple[int | str | None, ...]:
    return tenant.id, tenant.name, "disabled" if tenant.disabled_at else "active", f"{tenant.created_at:%Y-%m-%d}"


def _record(tenant: Tenant) -> dict[str, int | str | None]:
    quota = {"default_limit": tenant.default_limit, "default_window": tenant.default_period}
    calendar: dict[str, int | str | None] = {"time_zone": tenant.time_zone, "reset_day": tenant.reset_day}
    return dict(zip(COLUMNS, _row(tenant), strict=True)) | quota | calendar


def _quota(tenant: Tenant) -> str:
    return "none" if tenant.default_limit is None else f"{tenant.default_limit:,} tokens, {tenant.default_period}"


def _parse_quota(limit: str | None, window: str | None) -> tuple[int | None, str | None]:
    """Raises InvalidRequest."""
    if limit is None:
        if window is not None:
            raise InvalidRequest("A window needs a limit, too.")
        return None, None
    return parse_amount(limit, "The limit", minimum=0), parse_window(window or Period.MONTH.value).value


def _calendar_changes(time_zone: str | None, reset_day: str | None) -> dict[str, Any]:
    """Raises InvalidRequest."""
    changes: dict[str, Any] = {} if time_zone is None else {"time_zone": time_zone}
    if reset_day is not None:
        changes["reset_day"] = parse_number(reset_day, "--reset-day", 1, tenants.MAX_RESET_DAY)
    return changes


def _print_result(tenant: Tenant, what: str, *, as_json: bool) -> None:
    if as_json:
        print_json(_record(tenant))
    else:
        print_line(f"The tenant {tenant.name} is {what}.")


async def _set_enabled(name: str, *, enabled: bool) -> Tenant:
    async with open_administration() as administration:
        admin = administration.admin
        tenant = await accounts.get_tenant_by_name(admin.session, parse_name(name))
        return await tenants.change_tenant(admin, tenant, {"disabled": not enabled})
