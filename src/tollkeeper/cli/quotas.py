"""`tollkeeper quota`: how much is left, and more or less of it; for a user, or for a tenant as a whole."""

import asyncio
from typing import Annotated

import typer

from tollkeeper.cli import charges, tables, values
from tollkeeper.cli.context import actor, opened
from tollkeeper.cli.subjects import find
from tollkeeper.clock import SystemClock
from tollkeeper.quota import queries
from tollkeeper.quota.changes import Action, QuotaChange, Target, make, plan
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import Balance
from tollkeeper.quota.rules.page import Subject

app = typer.Typer(help="Show and change quotas; refund and explain charges.")

PROGRAM = "cli"
WINDOWS = "minute|hour|day|month|total"

Email = Annotated[str | None, typer.Argument(metavar="EMAIL", show_default=False, help="The user whose quota it is.")]
Tenant = Annotated[
    str | None, typer.Option("--tenant", metavar="NAME", show_default=False, help="The tenant, as a whole.")
]
Counted = Annotated[
    str, typer.Option("--unit", metavar="tokens|usd", help="What the quota counts; with usd, N is in micro-USD.")
]
Window = Annotated[
    str | None,
    typer.Option("--window", metavar=WINDOWS, show_default=False, help="Which quota; needed unless there is one."),
]


@app.command()
def show(email: Email = None, tenant: Tenant = None) -> None:
    """Show every quota that applies, as it stands now."""

    async def read() -> tuple[Target, list[Balance], list[Balance]]:
        async with opened() as install, install.database.session() as session:
            target, now_ms = await find(session, email, tenant), SystemClock().now_ms()
            own = await queries.balances_of(session, [target.subject], now_ms)
            shared: list[Balance] = []
            if target.subject.user_id is not None:
                shared = await queries.balances_of(session, [Subject(target.subject.tenant_id)], now_ms)
            return target, own, shared

    target, own, shared = asyncio.run(read())
    rows = [tables.balance_row(target.label, one) for one in own]
    rows += [tables.balance_row("the whole tenant", one) for one in shared]
    if rows:
        tables.show(tables.BALANCE_COLUMNS, rows)
    if target.subject.user_id is not None and not any(one.unit == Unit.TOKENS for one in own):
        typer.echo(f"{target.label} has no token quota, so every call is refused.")
    elif not rows:
        typer.echo(f"{target.label} has no quota of its own: its users' quotas are the bound.")


@app.command(name="set")
def set_(
    limit: Annotated[
        str, typer.Option(metavar="N", show_default=False, help="The new limit per window. What is used stays used.")
    ],
    email: Email = None,
    tenant: Tenant = None,
    window: Window = None,
    unit: Counted = "tokens",
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; written into the ledger.")] = "limit set by hand",
) -> None:
    """Make a quota, or change its limit."""
    amount = values.amount(limit, "--limit", least=0)
    _change(email, tenant, window, Action.SET, amount, reason, values.unit(unit))


@app.command()
def grant(
    tokens: Annotated[
        str, typer.Option(metavar="N", show_default=False, help="How many more, in the current window only.")
    ],
    reason: Annotated[str, typer.Option(metavar="TEXT", show_default=False, help="Why; written into the ledger.")],
    email: Email = None,
    tenant: Tenant = None,
    window: Window = None,
    unit: Counted = "tokens",
) -> None:
    """Top up the current window of a quota. The limit of the windows to come stays as it is."""
    _change(email, tenant, window, Action.GRANT, values.amount(tokens, "--tokens"), reason, values.unit(unit))


charges.register(app)


def _change(
    email: str | None,
    tenant: str | None,
    window: str | None,
    action: Action,
    amount: int,
    reason: str,
    unit: Unit,
) -> None:
    """Make one change, and say what came of it."""
    why, period = values.reason(reason), values.window(window) if window is not None else None

    async def work() -> tuple[Target, int | None, Balance]:
        async with opened() as install:
            async with install.database.session() as session:
                target = await find(session, email, tenant)
                change = await plan(
                    session, QuotaChange(target, action, amount, why, period, unit), SystemClock().now_ms()
                )
            async with install.ledger() as ledger:
                (balance,) = await make(ledger, [change], actor=actor(PROGRAM))
            return target, change.before, balance

    target, before, balance = asyncio.run(work())
    was = f"was {before:,}" if before is not None else "there was none"
    typer.echo(
        f"{target.label}: the limit for the {balance.period} window is now {balance.limit:,}"
        f" {tables.UNIT_NAMES[balance.unit]} ({was}); {balance.used:,} used, {balance.reserved:,} reserved,"
        f" {balance.remaining:,} remaining."
    )
