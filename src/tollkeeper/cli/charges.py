"""`tollkeeper quota refund` and `explain`: the charge of one call, and the reason for its cost."""

import asyncio
from typing import Annotated

import typer
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.administration import charges
from tollkeeper.cli.arguments import parse_name, parse_reason
from tollkeeper.cli.context import open_administration, open_context
from tollkeeper.cli.open_ledger import open_ledger
from tollkeeper.cli.output import AsJson, format_time, iso_time, print_json, print_line, print_pairs, print_table
from tollkeeper.errors import ChargeArchived, NotFound, TollkeeperError
from tollkeeper.identity.models import Tenant, User
from tollkeeper.quota import queries
from tollkeeper.quota.reasons import reason
from tollkeeper.quota.rules.models import Charge, Entry
from tollkeeper.tenant_scope import ALL_TENANTS

PROGRAM = "cli"
ENTRY_COLUMNS = ("at", "quota", "kind", ">granted", ">settled", ">pending", ">forgiven", "actor", "reason")

ChargeId = Annotated[str, typer.Argument(metavar="CHARGE_ID", show_default=False, help="The charge's id.")]


def register(app: typer.Typer) -> None:
    app.command()(refund)
    app.command()(explain)


def refund(
    charge_id: ChargeId,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", show_default=False, help="The reason; recorded in the ledger.")
    ],
    as_json: AsJson = False,
) -> None:
    """Return a charge's cost to the windows that were charged."""
    parsed_reason, parsed_id = parse_reason(reason), parse_name(charge_id)

    async def refund_charge() -> int:
        async with open_administration(PROGRAM) as administration:
            admin = administration.admin
            await _find_charge(admin.session, parsed_id)
            plan = await charges.plan_refund(admin, parsed_id, parsed_reason)
            await admin.commit()
            async with open_ledger(administration.context.settings) as ledger:
                return await charges.apply_refund(admin, ledger, plan)

    tokens = asyncio.run(refund_charge())
    if as_json:
        print_json({"charge": parsed_id, "tokens_returned": tokens})
    else:
        print_line(f"The charge {parsed_id} is refunded: {tokens:,} tokens were returned.")


def explain(charge_id: ChargeId, as_json: AsJson = False) -> None:
    """Show a charge, its ledger entries, and the reason for its cost."""

    async def read() -> tuple[Charge, str, list[tuple[Entry, str]]]:
        async with open_context() as context, context.database.session() as session:
            charge = await _find_charge(session, parse_name(charge_id))
            user, tenant = await session.get(User, charge.user_id), await session.get(Tenant, charge.tenant_id)
            owner = f"{user.email if user else charge.user_id}, tenant {tenant.name if tenant else charge.tenant_id}"
            return charge, owner, await queries.entries_of(session, charge)

    charge, owner, entries = asyncio.run(read())
    if as_json:
        print_json(_record(charge, owner, entries))
        return
    print_pairs(_charge_rows(charge, owner))
    print_line()
    print_table(ENTRY_COLUMNS, [_entry_row(entry, quota) for entry, quota in entries])
    print_line()
    print_line(reason(charge))


async def _find_charge(session: AsyncSession, charge_id: str) -> Charge:
    try:
        return await queries.charge(session, charge_id, ALL_TENANTS)
    except ChargeArchived:
        raise
    except NotFound:
        raise NotFound(f"There is no charge {charge_id}.") from None


def _charge_rows(charge: Charge, owner: str) -> list[tuple[str, str]]:
    """Returns the names and values of a charge. Absent values are left out."""
    flags = [name for name in ("overrun", "adjusted", "refunded") if getattr(charge, name)]
    pairs = [
        ("charge", charge.id),
        ("user", owner),
        ("call", f"{charge.surface}, {charge.provider} {charge.model}"),
        ("API key", charge.key_id),
        ("group", charge.group_id),
        ("state", " ".join([charge.state, *(f"({flag})" for flag in flags)])),
        ("basis", charge.basis),
        ("error", charge.error and _format_error(charge.error)),
        ("begun", format_time(charge.created_ms)),
        ("lease until", format_time(charge.lease_ms) if charge.closed_ms is None else None),
        ("closed", charge.closed_ms and f"{format_time(charge.closed_ms)} by {charge.closed_by}"),
        ("held", _format_amounts(charge.held_tokens, charge.held_micro_usd)),
        ("usage", _format_usage(charge)),
        ("weight", f"{charge.weight_milli / 1000:g}" if charge.weight_milli != 1000 else None),
        ("cost", _format_amounts(charge.cost_tokens, charge.cost_micro_usd)),
        (
            "forgiven",
            _format_amounts(charge.forgiven_tokens, charge.forgiven_micro_usd) if charge.forgiven_tokens else None,
        ),
    ]
    return [(name, str(value)) for name, value in pairs if value]


def _record(charge: Charge, owner: str, entries: list[tuple[Entry, str]]) -> dict[str, object]:
    """Returns a charge with its entries and the reason for its cost, as a JSON object."""
    names = ("surface", "provider", "model", "state", "basis", "error", "overrun", "adjusted", "refunded")
    amounts = ("held_tokens", "held_micro_usd", "input_tokens", "cached_input_tokens", "output_tokens")
    costs = ("weight_milli", "cost_tokens", "cost_micro_usd", "forgiven_tokens", "forgiven_micro_usd")
    return {
        "charge": charge.id,
        "user": owner,
        **{name: getattr(charge, name) for name in ("key_id", "group_id", *names, *amounts, *costs)},
        "begun": iso_time(charge.created_ms),
        "closed": iso_time(charge.closed_ms),
        "closed_by": charge.closed_by,
        "entries": [
            {
                "at": iso_time(entry.at_ms),
                "quota": quota,
                **{
                    name: getattr(entry, name)
                    for name in ("kind", "granted", "settled", "pending", "forgiven", "actor", "reason")
                },
            }
            for entry, quota in entries
        ],
        "reason": reason(charge),
    }


def _format_error(code: str) -> str:
    """Returns an error's code and its sentence, if all errors of this code have the same one."""
    kinds, sentences = [TollkeeperError], set()
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if kind.code == code:
            sentences.add(kind.sentence)
    return f"{code}: {sentences.pop()}" if len(sentences) == 1 else code


def _format_amounts(tokens: int, micro_usd: int | None) -> str:
    return f"{tokens:,} tokens" + (f", {micro_usd:,} micro-USD" if micro_usd is not None else "")


def _format_usage(charge: Charge) -> str | None:
    if charge.input_tokens is None:
        return None
    cached = f" (of it {charge.cached_input_tokens:,} cached)" if charge.cached_input_tokens else ""
    return f"{charge.input_tokens:,} input{cached}, {charge.output_tokens or 0:,} output tokens"


def _entry_row(entry: Entry, quota: str) -> tuple[str, ...]:
    return (
        format_time(entry.at_ms),
        quota,
        entry.kind,
        *(f"{amount:+,}" if amount else "" for amount in (entry.granted, entry.settled, entry.pending, entry.forgiven)),
        entry.actor or "",
        entry.reason or "",
    )
