"""`tollkeeper quota remove`: end a quota or a template."""

import asyncio
from typing import Annotated

import typer

from tollkeeper.administration import quotas
from tollkeeper.cli.arguments import parse_reason
from tollkeeper.cli.balances import UNIT_NAMES
from tollkeeper.cli.context import open_administration
from tollkeeper.cli.open_ledger import open_ledger
from tollkeeper.cli.output import AsJson, print_json, print_line
from tollkeeper.cli.quota_arguments import parse_unit, parse_window
from tollkeeper.cli.quota_options import Each, Email, Group, Key, Tag, Tenant, UnitName, Window
from tollkeeper.cli.targets import find_target
from tollkeeper.quota.changes import Action, PlannedChange, QuotaChange, plan_change

PROGRAM = "cli"


def register(app: typer.Typer) -> None:
    app.command()(remove)


def remove(
    email: Email = None,
    tenant: Tenant = None,
    key: Key = None,
    group: Group = None,
    each: Each = None,
    tag: Tag = None,
    window: Window = None,
    unit: UnitName = "tokens",
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="The reason; recorded in the ledger.")
    ] = "removed by hand",
    as_json: AsJson = False,
) -> None:
    """Remove a quota or a template. Calls in flight are settled on it, and its history stays."""
    parsed_reason, parsed_unit = parse_reason(reason), parse_unit(unit)
    period = parse_window(window) if window is not None else None

    async def remove_quota() -> PlannedChange:
        async with open_administration(PROGRAM) as administration:
            admin = administration.admin
            target = await find_target(admin.session, email, tenant, key, group, each, tag)
            request = QuotaChange(target, Action.REMOVE, 0, parsed_reason, period, parsed_unit)
            change = await plan_change(admin.session, request, admin.now_ms)
            plan = await quotas.note_changes(admin, [change])
            await admin.commit()
            async with open_ledger(administration.context.settings) as ledger:
                await quotas.apply_changes(admin, ledger, plan)
            return change

    change = asyncio.run(remove_quota())
    label, removed = change.request.target.label, change.key
    if as_json:
        print_json({"owner": label, "window": removed.period, "unit": removed.unit, "limit_before": change.base})
        return
    amount = f"{change.base:,} {UNIT_NAMES[removed.unit]}"
    print_line(f"{label}: the quota of {amount} for the {removed.period} window is removed. Its history stays.")
