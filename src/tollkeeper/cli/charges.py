"""`tollkeeper quota refund` and `explain`: one call, and why it cost what it cost."""

import asyncio
from typing import Annotated

import typer
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.cli import tables, values
from tollkeeper.cli.context import actor, opened
from tollkeeper.errors import NotFound
from tollkeeper.identity.models import Tenant, User
from tollkeeper.quota import queries
from tollkeeper.quota.rules.models import Charge, Entry

PROGRAM = "cli"
ENTRY_COLUMNS = ("at", "quota", "kind", ">granted", ">settled", ">pending", ">forgiven", "actor", "reason")

ChargeId = Annotated[str, typer.Argument(metavar="CHARGE_ID", show_default=False, help="The charge's id.")]


def register(app: typer.Typer) -> None:
    app.command()(refund)
    app.command()(explain)


def refund(
    charge_id: ChargeId,
    reason: Annotated[str, typer.Option(metavar="TEXT", show_default=False, help="Why; written into the ledger.")],
) -> None:
    """Give one charge's cost back, in the windows that paid it."""
    why, wanted = values.reason(reason), values.name(charge_id)

    async def work() -> int:
        async with opened() as install, install.ledger() as ledger:
            return await ledger.refund(wanted, actor=actor(PROGRAM), reason=why)

    typer.echo(f"The charge {wanted} is refunded: {asyncio.run(work()):,} tokens were given back.")


def explain(charge_id: ChargeId) -> None:
    """Show a charge, what it wrote into the ledger, and why it cost what it cost."""

    async def read() -> tuple[Charge, str, list[tuple[Entry, str]]]:
        async with opened() as install, install.database.session() as session:
            charge = await _find(session, values.name(charge_id))
            user, tenant = await session.get(User, charge.user_id), await session.get(Tenant, charge.tenant_id)
            whose = f"{user.email if user else charge.user_id}, tenant {tenant.name if tenant else charge.tenant_id}"
            return charge, whose, await queries.entries_of(session, charge.id)

    charge, whose, entries = asyncio.run(read())
    tables.show_pairs(_told(charge, whose))
    typer.echo()
    tables.show(ENTRY_COLUMNS, [_entry_row(entry, quota) for entry, quota in entries])
    typer.echo()
    typer.echo(queries.reason(charge))


async def _find(session: AsyncSession, charge_id: str) -> Charge:
    try:
        return await queries.charge(session, charge_id)
    except NotFound:
        raise NotFound(f"There is no charge {charge_id}.") from None


def _told(charge: Charge, whose: str) -> list[tuple[str, str]]:
    """The charge's row, in words; what it does not have is left out."""
    flags = [name for name in ("overrun", "adjusted", "refunded") if getattr(charge, name)]
    pairs = [
        ("charge", charge.id),
        ("user", whose),
        ("call", f"{charge.surface}, {charge.provider} {charge.model}"),
        ("state", " ".join([charge.state, *(f"({flag})" for flag in flags)])),
        ("basis", charge.basis),
        ("error", charge.error),
        ("begun", tables.moment(charge.created_ms)),
        ("lease until", tables.moment(charge.lease_ms) if charge.closed_ms is None else None),
        ("closed", charge.closed_ms and f"{tables.moment(charge.closed_ms)} by {charge.closed_by}"),
        ("held", _amounts(charge.held_tokens, charge.held_micro_usd)),
        ("usage", _usage(charge)),
        ("weight", f"{charge.weight_milli / 1000:g}" if charge.weight_milli != 1000 else None),
        ("cost", _amounts(charge.cost_tokens, charge.cost_micro_usd)),
        ("forgiven", _amounts(charge.forgiven_tokens, charge.forgiven_micro_usd) if charge.forgiven_tokens else None),
    ]
    return [(name, str(value)) for name, value in pairs if value]


def _amounts(tokens: int, micro_usd: int | None) -> str:
    return f"{tokens:,} tokens" + (f", {micro_usd:,} micro-USD" if micro_usd is not None else "")


def _usage(charge: Charge) -> str | None:
    if charge.input_tokens is None:
        return None
    cached = f" (of it {charge.cached_input_tokens:,} cached)" if charge.cached_input_tokens else ""
    return f"{charge.input_tokens:,} input{cached}, {charge.output_tokens or 0:,} output tokens"


def _entry_row(entry: Entry, quota: str) -> tuple[str, ...]:
    return (
        tables.moment(entry.at_ms),
        quota,
        entry.kind,
        *(f"{amount:+,}" if amount else "" for amount in (entry.granted, entry.settled, entry.pending, entry.forgiven)),
        entry.actor or "",
        entry.reason or "",
    )
