"""`tollkeeper alert`: rules that say at which shares of quotas alerts fire, and the alerts that have fired."""

import asyncio
from typing import Annotated

import typer

from tollkeeper.administration import alerts
from tollkeeper.administration.administrator import Administrator
from tollkeeper.alerts.models import AlertRule, QuotaAlert
from tollkeeper.cli.arguments import parse_name, parse_number
from tollkeeper.cli.context import open_administration
from tollkeeper.cli.output import AsJson, print_json, print_line, print_table
from tollkeeper.cli.quota_arguments import parse_unit, parse_window
from tollkeeper.errors import InvalidRequest
from tollkeeper.identity import accounts
from tollkeeper.quota.rules.subjects import OF_EACH, SubjectKind

app = typer.Typer(
    name="alert",
    help="Set at which shares of quotas alerts fire, and list those that have fired.",
    no_args_is_help=True,
    add_completion=False,
)

LISTED = 100
KINDS = [kind.value for kind in SubjectKind if kind not in OF_EACH] + [OF_EACH[SubjectKind.EACH_CONVERSATION]]

TenantName = Annotated[str, typer.Option("--tenant", metavar="NAME", show_default=False, help="The tenant.")]
Percents = Annotated[str, typer.Option(metavar="N,N,…", help="The shares of the limit, in percent.")]
Kind = Annotated[str | None, typer.Option(metavar="|".join(KINDS), show_default=False, help="Of whose quotas.")]
UnitName = Annotated[str | None, typer.Option("--unit", metavar="tokens|usd|requests", show_default=False)]
Window = Annotated[str | None, typer.Option("--window", metavar="minute|hour|day|week|month|total", show_default=False)]
RuleId = Annotated[str, typer.Argument(metavar="ID", show_default=False, help="The rule's id.")]


@app.command()
def add(
    tenant: TenantName,
    percents: Percents = "80,95,100",
    kind: Kind = None,
    unit: UnitName = None,
    window: Window = None,
) -> None:
    """Add a rule: an alert fires once for each window and share."""
    shares = [parse_number(one.strip(), "--percents", 1, alerts.MAX_PERCENT) for one in percents.split(",")]
    if kind is not None and kind not in KINDS:
        raise InvalidRequest(f"--kind is one of: {', '.join(KINDS)}.")
    counted = parse_unit(unit).value if unit is not None else None
    period = parse_window(window).value if window is not None else None

    async def act() -> AlertRule:
        async with open_administration() as administration:
            admin = administration.admin
            tenant_id = await _tenant_id(admin, tenant)
            return await alerts.create_rule(admin, tenant_id, shares, kind=kind, unit=counted, period=period)

    print_line(f"The rule {asyncio.run(act()).id} is added.")


@app.command()
def rules(tenant: TenantName, as_json: AsJson = False) -> None:
    """List the rules of a tenant."""

    async def read() -> list[AlertRule]:
        async with open_administration() as administration:
            admin = administration.admin
            return await alerts.list_rules(admin, await _tenant_id(admin, tenant))

    found = asyncio.run(read())
    if as_json:
        print_json([rule.model_dump() | {"percents": alerts.percents_of(rule)} for rule in found])
        return
    rows = [
        (
            rule.id,
            ", ".join(map(str, alerts.percents_of(rule))),
            rule.kind or "all",
            str(rule.user_id or ""),
            rule.unit or "all",
            rule.period or "all",
        )
        for rule in found
    ]
    print_table(("rule", "percents", "quotas of", "user", "unit", "window"), rows)


@app.command()
def remove(rule_id: RuleId) -> None:
    """Remove a rule. Alerts that have fired stay."""

    async def act() -> None:
        async with open_administration() as administration:
            await alerts.delete_rule(administration.admin, rule_id)

    asyncio.run(act())
    print_line(f"The rule {rule_id} is removed.")


@app.command(name="list")
def list_(tenant: TenantName, as_json: AsJson = False) -> None:
    """List the newest alerts of a tenant."""

    async def read() -> list[QuotaAlert]:
        async with open_administration() as administration:
            admin = administration.admin
            return await alerts.list_alerts(admin, await _tenant_id(admin, tenant), limit=LISTED)

    found = asyncio.run(read())
    if as_json:
        print_json([alert.model_dump() for alert in found])
        return
    rows = [
        (
            alert.id,
            f"{alert.percent} %",
            alert.kind,
            str(alert.user_id or ""),
            alert.unit,
            alert.period,
            f"{alert.settled:,}",
            f"{alert.granted:,}",
        )
        for alert in found
    ]
    print_table(("alert", "share", "quota of", "user", "unit", "window", "used", "limit"), rows)


async def _tenant_id(admin: Administrator, name: str) -> int:
    tenant = await accounts.get_tenant_by_name(admin.session, parse_name(name))
    assert tenant.id is not None
    return tenant.id
