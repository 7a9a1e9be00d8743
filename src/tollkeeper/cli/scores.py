"""`tollkeeper scores`: the scores that a tenant's judge gives its answers, and the share of them that it rates."""

import asyncio
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Annotated, Any

import typer

from tollkeeper.administration import scores, tenants
from tollkeeper.cli.arguments import parse_name
from tollkeeper.cli.context import open_administration
from tollkeeper.cli.output import AsJson, print_json, print_line, print_table
from tollkeeper.errors import InvalidRequest
from tollkeeper.identity import accounts
from tollkeeper.identity.models import Tenant
from tollkeeper.scores.counts import ScoreGroup, ScoreGrouping

app = typer.Typer(
    name="scores",
    help="Show the scores of a tenant's answers, and set its judge.",
    no_args_is_help=True,
    add_completion=False,
)

TenantName = Annotated[str, typer.Option("--tenant", metavar="NAME", show_default=False, help="The tenant.")]
Day = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], metavar="DATE", show_default=False)]
COLUMNS = ("answers", "scored", "mean score", "cost", "cost per point", "judge cost", "not scored")


@app.command()
def show(
    tenant: TenantName,
    group_by: Annotated[ScoreGrouping, typer.Option(help="What each line is for.")] = ScoreGrouping.MODEL,
    first: Day = None,
    last: Day = None,
    as_json: AsJson = False,
) -> None:
    """Show the scores, by default of the last 30 days. Costs are in tokens after the weight."""

    async def read() -> list[ScoreGroup]:
        async with open_administration() as administration:
            admin = administration.admin
            found = await accounts.get_tenant_by_name(admin.session, parse_name(tenant))
            return await scores.scores(admin, found.id, group_by, _date(first), _date(last))

    found = asyncio.run(read())
    if as_json:
        print_json([_record(one) for one in found])
    else:
        print_table((group_by.value, *COLUMNS), [_row(one) for one in found])


@app.command()
def judge(
    tenant: TenantName,
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="The model that rates answers.")] = None,
    share: Annotated[float | None, typer.Option(min=0, max=1, help="The share of answers that it rates.")] = None,
    account: Annotated[int | None, typer.Option(metavar="ID", help="The service account that pays for those.")] = None,
    none: Annotated[bool, typer.Option("--none", help="The tenant has no judge any more.")] = False,
) -> None:
    """Set the judge of a tenant. What is not given stays as it is."""
    changes: dict[str, Any] = {"judge_model": model, "evaluate_share": share, "evaluate_account": account}
    changes = {name: value for name, value in changes.items() if value is not None}
    if none == bool(changes):
        raise InvalidRequest("Give --none, or at least one of --model, --share and --account.")
    if none:
        changes = {"judge_model": None, "evaluate_share": 0.0, "evaluate_account": None}

    async def act() -> Tenant:
        async with open_administration() as administration:
            admin = administration.admin
            found = await accounts.get_tenant_by_name(admin.session, parse_name(tenant))
            return await tenants.change_tenant(admin, found, changes)

    changed = asyncio.run(act())
    if changed.judge_model is None:
        print_line(f"The tenant {changed.name} has no judge.")
    else:
        rated = f"{changed.evaluate_share:g} of the other answers"
        print_line(f"The judge of {changed.name} is {changed.judge_model}. It rates calls with evaluate, and {rated}.")


def _date(given: datetime | None) -> date | None:
    return given.replace(tzinfo=UTC).date() if given is not None else None


def _record(one: ScoreGroup) -> dict[str, Any]:
    means = {"mean": one.mean, "tokens_per_point": one.tokens_per_point, "usd_per_point": one.usd_per_point}
    return asdict(one) | means


def _row(one: ScoreGroup) -> tuple[str, ...]:
    reasons = ", ".join(f"{name} {count}" for name, count in sorted(one.reasons.items()))
    numbers = (one.answers, one.scored, one.mean, one.cost_tokens, one.tokens_per_point, one.judge_tokens)
    return (one.group, *["-" if number is None else str(number) for number in numbers], reasons)
