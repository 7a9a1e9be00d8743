"""`tollkeeper moderation`: show, set and remove a tenant's moderation policy, and count what its rules have found."""

import asyncio
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from tollkeeper.administration import moderation
from tollkeeper.administration.administrator import Administrator
from tollkeeper.cli.arguments import parse_name
from tollkeeper.cli.context import open_administration
from tollkeeper.cli.output import AsJson, print_json, print_line, print_table
from tollkeeper.errors import InvalidRequest
from tollkeeper.identity import accounts
from tollkeeper.moderation.counts import ModerationCount
from tollkeeper.moderation.documents import PolicyDocument, read_document

app = typer.Typer(
    name="moderation",
    help="Show, set and remove a tenant's moderation policy, and count what its rules have found.",
    no_args_is_help=True,
    add_completion=False,
)

MAX_FILE_BYTES = 64 * 1024

TenantName = Annotated[str, typer.Option("--tenant", metavar="NAME", show_default=False, help="The tenant.")]
PolicyFile = Annotated[
    Path, typer.Argument(metavar="FILE", show_default=False, help="The policy, as JSON; - is standard input.")
]
Day = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], metavar="DATE", show_default=False)]


@app.command()
def show(tenant: TenantName) -> None:
    """Show a tenant's policy, as JSON."""

    async def read() -> str:
        async with open_administration() as administration:
            admin = administration.admin
            return (await moderation.get_policy(admin, await _tenant_id(admin, tenant))).document

    print_json(msgspec.to_builtins(read_document(asyncio.run(read()))))


@app.command(name="set")
def set_(file: PolicyFile, tenant: TenantName) -> None:
    """Set or replace a tenant's policy. It applies to all calls of the tenant within about a second."""
    document = _read_policy(file)

    async def act() -> None:
        async with open_administration() as administration:
            admin = administration.admin
            await moderation.set_policy(admin, await _tenant_id(admin, tenant), document)

    asyncio.run(act())
    enforced = sum(rule.action != "flag" and not rule.report_only for rule in document.rules)
    print_line(f"The policy of {tenant.strip()} is set: {len(document.rules)} rules, {enforced} of them enforced.")


@app.command()
def remove(tenant: TenantName) -> None:
    """Remove a tenant's policy."""

    async def act() -> None:
        async with open_administration() as administration:
            admin = administration.admin
            await moderation.remove_policy(admin, await _tenant_id(admin, tenant))

    asyncio.run(act())
    print_line(f"The policy of {tenant.strip()} is removed.")


@app.command()
def counts(tenant: TenantName, first: Day = None, last: Day = None, as_json: AsJson = False) -> None:
    """Show what each rule has found per day (UTC), by default in the last 30 days."""

    async def read() -> list[ModerationCount]:
        async with open_administration() as administration:
            admin = administration.admin
            return await moderation.counts(admin, await _tenant_id(admin, tenant), _date(first), _date(last))

    found = asyncio.run(read())
    if as_json:
        print_json([row.model_dump(exclude={"tenant_id"}) for row in found])
        return
    rows = [
        (row.day, row.rule, row.stage, row.action, "yes" if row.enforced else "no", str(row.calls), str(row.findings))
        for row in found
    ]
    print_table(("day", "rule", "stage", "action", "enforced", "calls", "findings"), rows)


def _date(given: datetime | None) -> date | None:
    return given.replace(tzinfo=UTC).date() if given is not None else None


def _read_policy(file: Path) -> PolicyDocument:
    """Raises InvalidRequest."""
    try:
        if str(file) == "-":
            content = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with file.open("rb") as opened:
                content = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}.") from None
    if len(content) > MAX_FILE_BYTES:
        raise InvalidRequest(f"{file} is larger than {MAX_FILE_BYTES} bytes.")
    try:
        return read_document(content.decode())
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{file} is no moderation policy: {error}.") from None


async def _tenant_id(admin: Administrator, name: str) -> int:
    tenant = await accounts.get_tenant_by_name(admin.session, parse_name(name))
    assert tenant.id is not None
    return tenant.id
