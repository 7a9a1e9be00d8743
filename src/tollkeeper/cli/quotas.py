"""`tollkeeper quota`: show, set and top up the quotas of a user or of a tenant."""

import asyncio
from typing import Annotated

import typer

from tollkeeper.administration import quotas
from tollkeeper.administration.tags import prepare_quota
from tollkeeper.cli import charges, quota_removal, quota_requests
from tollkeeper.cli.arguments import parse_reason
from tollkeeper.cli.balances import BALANCE_COLUMNS, UNIT_NAMES, balance_record, balance_row
from tollkeeper.cli.context import open_administration, open_context
from tollkeeper.cli.open_ledger import open_ledger
from tollkeeper.cli.output import AsJson, print_json, print_line, print_table
from tollkeeper.cli.quota_arguments import parse_amount, parse_time, parse_unit, parse_when_spent, parse_window
from tollkeeper.cli.quota_options import (
    UNTIL,
    Each,
    Email,
    FallbackModel,
    Group,
    Key,
    Tag,
    Tenant,
    UnitName,
    Until,
    WhenSpentName,
    Window,
)
from tollkeeper.cli.targets import find_target
from tollkeeper.quota import queries
from tollkeeper.quota.changes import Action, QuotaChange, Target, plan_change, spent_rule
from tollkeeper.quota.rules.limit_changes import SpentRule
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import Balance
from tollkeeper.quota.rules.page import Subject
from tollkeeper.quota.rules.subjects import SubjectKind

app = typer.Typer(
    name="quota", help="Show and change quotas; refund and explain charges.", no_args_is_help=True, add_completion=False
)

PROGRAM = "cli"


@app.command()
def show(
    email: Email = None,
    tenant: Tenant = None,
    key: Key = None,
    group: Group = None,
    each: Each = None,
    tag: Tag = None,
    as_json: AsJson = False,
) -> None:
    """Show every quota that applies, in its current window."""

    async def read() -> tuple[Target, list[tuple[str, Balance]]]:
        async with open_context() as context, context.database.session() as session:
            found = await find_target(session, email, tenant, key, group, each, tag)
            target, now_ms = found, context.clock.now_ms()
            owners = {target.label: target.subject}
            if target.subject.kind is SubjectKind.KEY:
                owners["its user"] = Subject(target.subject.tenant_id, target.subject.user_id)
            if target.subject.kind is not SubjectKind.TENANT:
                owners["the whole tenant"] = Subject(target.subject.tenant_id)
            return target, [
                (label, balance)
                for label, subject in owners.items()
                for balance in await queries.balances_of(session, [subject], now_ms)
            ]

    target, labelled = asyncio.run(read())
    if as_json:
        print_json([balance_record(label, balance) for label, balance in labelled])
        return
    if labelled:
        print_table(BALANCE_COLUMNS, [balance_row(label, balance) for label, balance in labelled])
    if target.subject.kind is SubjectKind.USER and not any(
        label == target.label and balance.unit == Unit.TOKENS for label, balance in labelled
    ):
        print_line(f"{target.label} has no token quota, so every call is refused.")
    elif not labelled:
        print_line(f"{target.label} has no quota of its own: only its users' quotas apply.")


@app.command(name="set")
def set_(
    limit: Annotated[
        str, typer.Option(metavar="N", show_default=False, help="The new limit per window. Usage and grants are kept.")
    ],
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
    ] = "limit set by hand",
    when_spent: WhenSpentName = None,
    fallback_model: FallbackModel = None,
    rollover: Annotated[
        str | None,
        typer.Option(metavar="N", show_default=False, help="How much of what is unused the next window gets, at most."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a quota, or change its limit."""
    amount = parse_amount(limit, "--limit", minimum=0)
    spent = spent_rule(parse_when_spent(when_spent) if when_spent is not None else None, fallback_model)
    cap = parse_amount(rollover, "--rollover", minimum=0) if rollover is not None else None
    _change(
        (email, tenant, key, group, each, tag),
        window,
        Action.SET,
        amount,
        reason,
        parse_unit(unit),
        spent,
        cap=cap,
        as_json=as_json,
    )


@app.command()
def grant(
    tokens: Annotated[
        str, typer.Option(metavar="N", show_default=False, help="How many to add, in the current window only.")
    ],
    reason: Annotated[
        str, typer.Option(metavar="TEXT", show_default=False, help="The reason; recorded in the ledger.")
    ],
    email: Email = None,
    tenant: Tenant = None,
    key: Key = None,
    group: Group = None,
    tag: Tag = None,
    window: Window = None,
    unit: UnitName = "tokens",
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Top up the current window of a quota. The limit of later windows does not change."""
    amount, until_ms = parse_amount(tokens, "--tokens"), parse_time(until, "--until")
    _change(
        (email, tenant, key, group, None, tag),
        window,
        Action.GRANT,
        amount,
        reason,
        parse_unit(unit),
        None,
        (None, until_ms),
        as_json=as_json,
    )


@app.command()
def override(
    limit: Annotated[str, typer.Option(metavar="N", show_default=False, help="The limit meanwhile.")],
    until: Annotated[str, typer.Option(metavar="TIME", show_default=False, help=UNTIL)],
    reason: Annotated[
        str, typer.Option(metavar="TEXT", show_default=False, help="The reason; recorded in the ledger.")
    ],
    email: Email = None,
    tenant: Tenant = None,
    key: Key = None,
    group: Group = None,
    tag: Tag = None,
    window: Window = None,
    unit: UnitName = "tokens",
    start: Annotated[
        str | None, typer.Option("--from", metavar="TIME", show_default=False, help="When it begins. Default: now.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Replace the limit of a quota for a time. It ends by itself."""
    amount = parse_amount(limit, "--limit", minimum=0)
    times = parse_time(start, "--from"), parse_time(until, "--until")
    _change(
        (email, tenant, key, group, None, tag),
        window,
        Action.OVERRIDE,
        amount,
        reason,
        parse_unit(unit),
        None,
        times,
        as_json=as_json,
    )


quota_removal.register(app)
charges.register(app)
quota_requests.register(app)


def _change(
    owner: tuple[str | None, ...],
    window: str | None,
    action: Action,
    amount: int,
    reason: str,
    unit: Unit,
    when_spent: SpentRule | None = None,
    times: tuple[int | None, int | None] = (None, None),
    *,
    cap: int | None = None,
    as_json: bool,
) -> None:
    """Make one change, and print the quota before and after it. `owner` is as for `find_target`."""
    parsed_reason, period = parse_reason(reason), parse_window(window) if window is not None else None

    async def make_change() -> tuple[Target, int | None, Balance]:
        async with open_administration(PROGRAM) as administration:
            admin = administration.admin
            target = await find_target(admin.session, *owner)
            await prepare_quota(admin, target.subject)
            request = QuotaChange(target, action, amount, parsed_reason, period, unit, when_spent, *times, cap)
            change = await plan_change(admin.session, request, admin.now_ms)
            plan = await quotas.note_changes(admin, [change])
            await admin.commit()
            async with open_ledger(administration.context.settings) as ledger:
                (balance,) = await quotas.apply_changes(admin, ledger, plan)
            return target, change.before, balance

    target, before, balance = asyncio.run(make_change())
    if as_json:
        print_json({**balance_record(target.label, balance), "limit_before": before})
        return
    previous = f"was {before:,}" if before is not None else "there was none"
    if action is Action.SET and balance.limit != amount:
        previous += f"; {balance.limit - amount:+,} by grants, overrides or rollover of this window"
    print_line(
        f"{target.label}: the limit for the {balance.period} window is now {balance.limit:,}"
        f" {UNIT_NAMES[balance.unit]} ({previous}); {balance.used:,} used, {balance.reserved:,} reserved,"
        f" {balance.remaining:,} remaining."
    )
