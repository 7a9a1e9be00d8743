"""`tollkeeper plan`: list, show, set and delete plans, and put tenants on them."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tollkeeper.administration import plans
from tollkeeper.administration.administrator import Administrator
from tollkeeper.cli.arguments import parse_name, parse_reason
from tollkeeper.cli.context import open_administration
from tollkeeper.cli.open_ledger import open_ledger
from tollkeeper.cli.output import AsJson, print_json, print_line, print_table
from tollkeeper.configuration.models import Plan
from tollkeeper.configuration.plans import PlanTerms, find_plan_by_name, read_terms
from tollkeeper.errors import InvalidRequest, NotFound
from tollkeeper.identity import accounts

app = typer.Typer(
    name="plan",
    help="List, show, set and delete plans, and put tenants on them.",
    no_args_is_help=True,
    add_completion=False,
)

MAX_FILE_BYTES = 64 * 1024

Name = Annotated[str, typer.Argument(metavar="PLAN", show_default=False, help="The plan's name.")]
TenantName = Annotated[str, typer.Argument(metavar="TENANT", show_default=False, help="The tenant's name.")]
TermsFile = Annotated[
    Path, typer.Argument(metavar="FILE", show_default=False, help="The terms, as JSON; - is standard input.")
]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="The reason; recorded in the audit log.")]


@app.command(name="list")
def list_(as_json: AsJson = False) -> None:
    """List the plans."""

    async def read() -> list[Plan]:
        async with open_administration() as administration:
            return await plans.list_plans(administration.admin, after=0, limit=plans.MAX_PLANS)

    found = asyncio.run(read())
    if as_json:
        print_json([_record(plan) for plan in found])
    else:
        rows = [(plan.id, plan.name, read_terms(plan.document)) for plan in found]
        print_table(
            ("id", "plan", "calls per user", "calls per tenant", "models"),
            [
                (str(number), name, terms.calls_per_user or "", terms.calls_per_tenant or "", _models(terms))
                for number, name, terms in rows
            ],
        )


@app.command()
def show(name: Name) -> None:
    """Show the terms of a plan, as JSON."""

    async def read() -> Plan:
        async with open_administration() as administration:
            return await _find(administration.admin, name)

    print_json(_record(asyncio.run(read())))


@app.command(name="set")
def set_(name: Name, file: TermsFile) -> None:
    """Create a plan, or replace the terms of one. Quotas that exist stay as they are."""
    terms = _read_terms(file)

    async def act() -> None:
        async with open_administration() as administration:
            admin = administration.admin
            if (found := await find_plan_by_name(admin.session, parse_name(name))) is None:
                await plans.create_plan(admin, name, terms)
            else:
                await plans.change_plan(admin, found, name=None, terms=terms)

    asyncio.run(act())
    print_line(f"The plan {name.strip()} is set.")


@app.command()
def delete(name: Name) -> None:
    """Delete a plan that no tenant is on."""

    async def act() -> None:
        async with open_administration() as administration:
            admin = administration.admin
            await plans.delete_plan(admin, await _find(admin, name))

    asyncio.run(act())
    print_line(f"The plan {name.strip()} is deleted.")


@app.command()
def assign(tenant: TenantName, name: Name, reason: Reason = "put on a plan by hand") -> None:
    """Put a tenant on a plan, and set its quotas to those of the plan."""
    asyncio.run(_assign(tenant, name, parse_reason(reason)))
    print_line(f"The tenant {tenant.strip()} is on the plan {name.strip()}.")


@app.command()
def unassign(tenant: TenantName, reason: Reason = "taken off a plan by hand") -> None:
    """Take a tenant off its plan. Its quotas stay."""
    asyncio.run(_assign(tenant, None, parse_reason(reason)))
    print_line(f"The tenant {tenant.strip()} is on no plan.")


async def _assign(tenant: str, name: str | None, reason: str) -> None:
    async with open_administration() as administration:
        admin = administration.admin
        found = await accounts.get_tenant_by_name(admin.session, parse_name(tenant))
        assert found.id is not None
        plan_id = (await _find(admin, name)).id if name is not None else None
        assignment = await plans.assign_plan(admin, found.id, plan_id, reason)
        await admin.commit()
        if assignment.limits is not None:
            async with open_ledger(administration.context.settings) as ledger:
                await plans.apply_assignment(admin, ledger, assignment)


async def _find(admin: Administrator, name: str) -> Plan:
    found = await find_plan_by_name(admin.session, parse_name(name))
    if found is None:
        raise NotFound("There is no plan of this name. `tollkeeper plan list` shows all.")
    return found


def _read_terms(file: Path) -> PlanTerms:
    """Raises InvalidRequest."""
    try:
        if str(file) == "-":
            content = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with file.open("rb") as opened:
                content = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidRequest(f"The file cannot be read: {error.strerror}.") from None
    if len(content) > MAX_FILE_BYTES:
        raise InvalidRequest(f"The terms have at most {MAX_FILE_BYTES:,} bytes.")
    try:
        return msgspec.json.decode(content, type=PlanTerms)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The file does not have the terms of a plan: {error}.") from None


def _record(plan: Plan) -> dict[str, Any]:
    terms: dict[str, Any] = msgspec.to_builtins(read_terms(plan.document))
    return {"id": plan.id, "name": plan.name} | terms


def _models(terms: PlanTerms) -> str:
    return ", ".join(terms.models) if terms.models is not None else "all"
