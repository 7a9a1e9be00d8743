"""`tollkeeper quota`: show, set and top up the quotas of a user or of a tenant."""

import asyncio
from typing import Annotated

import typer

from tollkeeper.administration import quotas
from tollkeeper.cli import charges
from tollkeeper.cli.arguments import parse_reason
from tollkeeper.cli.balances import BALANCE_COLUMNS, UNIT_NAMES, balance_record, balance_row
from tollkeeper.cli.context import open_administration, open_context
from tollkeeper.cli.open_ledger import open_ledger
from tollkeeper.cli.output import AsJson, print_json, print_line, print_table
from tollkeeper.cli.quota_arguments import parse_amount, parse_unit, parse_window
from tollkeeper.cli.targets import find_target
from tollkeeper.quota import queries
from tollkeeper.quota.changes import Action, QuotaChange, Target, plan_change
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import Balance
from tollkeeper.quota.rules.page import Subject

app = typer.Typer(
    name="quota", help="Show and change quotas; refund and explain charges.", no_args_is_help=True, add_completion=False
)

PROGRAM = "cli"
WINDOWS = "minute|hour|day|month|total"

Email = Annotated[str | None, typer.Argument(metavar="EMAIL", show_default=False, help="The user whose quota it is.")]
Tenant = Annotated[
    str | None, typer.Option("--tenant", metavar="NAME", show_default=False, help="The tenant whose quota it is.")
]
UnitName = Annotated[
    str, typer.Option("--unit", metavar="tokens|usd", help="The unit of the quota; with usd, N is in micro-USD.")
]
Window = Annotated[
    str | None,
    typer.Option(
        "--window",
        metavar=WINDOWS,
        show_default=False,
        help="Which quota; required if there are several or none.",
    ),
]


@app.command()
def show(email: Email = None, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """Show every quota that applies, in its current window."""

    async def read() -> tuple[Target, list[Balance], list[Balance]]:
        async with open_context() as context, context.database.session() as session:
            target, now_ms = await find_target(session, email, tenant), context.clock.now_ms()
            own = await queries.balances_of(session, [target.subject], now_ms)
            shared: list[Balance] = []
            if target.subject.user_id is not None:
                shared = await queries.balances_of(session, [Subject(target.subject.tenant_id)], now_ms)
            return target, own, shared

    target, own, shared = asyncio.run(read())
    labelled = [(target.label, balance) for balance in own] + [("the whole tenant", balance) for balance in shared]
    if as_json:
        print_json([balance_record(label, balance) for label, balance in labelled])
        return
    if labelled:
        print_table(BALANCE_COLUMNS, [balance_row(label, balance) for label, balance in labelled])
    if target.subject.user_id is not None and not any(balance.unit == Unit.TOKENS for balance in own):
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
    window: Window = None,
    unit: UnitName = "tokens",
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="The reason; recorded in the ledger.")
    ] = "limit set by hand",
    as_json: AsJson = False,
) -> None:
    """Create a quota, or change its limit."""
    amount = parse_amount(limit, "--limit", minimum=0)
    _change(email, tenant, window, Action.SET, amount, reason, parse_unit(unit), as_json=as_json)


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
    window: Window = None,
    unit: UnitName = "tokens",
    as_json: AsJson = False,
) -> None:
    """Top up the current window of a quota. The limit of later windows does not change."""
    amount = parse_amount(tokens, "--tokens")
    _change(email, tenant, window, Action.GRANT, amount, reason, parse_unit(unit), as_json=as_json)


charges.register(app)


def _change(
    email: str | None,
    tenant: str | None,
    window: str | None,
    action: Action,
    amount: int,
    reason: str,
    unit: Unit,
    *,
    as_json: bool,
) -> None:
    """Make one change, and print the quota before and after it."""
    parsed_reason, period = parse_reason(reason), parse_window(window) if window is not None else None

    async def make_change() -> tuple[Target, int | None, Balance]:
        async with open_administration(PROGRAM) as administration:
            admin = administration.admin
            target = await find_target(admin.session, email, tenant)
            request = QuotaChange(target, action, amount, parsed_reason, period, unit)
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
    print_line(
        f"{target.label}: the limit for the {balance.period} window is now {balance.limit:,}"
        f" {UNIT_NAMES[balance.unit]} ({previous}); {balance.used:,} used, {balance.reserved:,} reserved,"
        f" {balance.remaining:,} remaining."
    )
