"""`tollkeeper audit`: shows the audit log, verifies it, and prints its heads."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.audit_log.log import Filter, Head
from tollkeeper.audit_log.models import AuditLine
from tollkeeper.audit_log.verification import Verification
from tollkeeper.audit_log.verification import verify as verify_chains
from tollkeeper.cli.arguments import parse_name, parse_number
from tollkeeper.cli.context import open_administration
from tollkeeper.cli.output import AsJson, format_time, iso_time, print_json, print_line, print_table
from tollkeeper.cli.progress import AsLines, ProgressLines, spinner
from tollkeeper.errors import InvalidRequest
from tollkeeper.identity import accounts
from tollkeeper.tenant_scope import ALL_TENANTS, TenantScope

app = typer.Typer(
    name="audit",
    help="Show and verify the audit log of administrative acts and logins.",
    no_args_is_help=True,
    add_completion=False,
)

COLUMNS = ("at", ">tenant", ">line", "actor", "action", "target", "before", "after", "reason", "address")
MAX_LINES = 100_000
PAGE_SIZE = 1_000
EXIT_PROBLEMS = 1

Tenant = Annotated[str | None, typer.Option("--tenant", metavar="NAME", help="Only this tenant's chain.")]


@app.command(name="list")
def list_(
    tenant: Tenant = None,
    action: Annotated[str | None, typer.Option(metavar="ACTION", help="Such as quota.set.")] = None,
    actor: Annotated[str | None, typer.Option(metavar="ACTOR", help="Such as user:17 or cli:root.")] = None,
    target: Annotated[str | None, typer.Option(metavar="TARGET", help="Such as user:17.")] = None,
    since: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="From this time on: 2027-01-31 or 2027-01-31T12:00Z.")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Before this time.")] = None,
    limit: Annotated[str, typer.Option(metavar="N", help="How many lines at most.")] = "100",
    as_json: AsJson = False,
) -> None:
    """List acts, the newest first."""
    matching = Filter(action, actor, target, _parse_time(since), _parse_time(until))
    wanted = parse_number(limit, "--limit", 1, MAX_LINES)

    async def read() -> list[AuditLine]:
        async with open_administration() as administration:
            admin, lines = administration.admin, list[AuditLine]()
            scope = await _scope(administration.admin.session, tenant)
            before = None
            while len(lines) < wanted:
                size = min(PAGE_SIZE, wanted - len(lines))
                page = await admin.audit_log.page(admin.session, scope, matching=matching, before=before, limit=size)
                lines += page
                if len(page) < size:
                    break
                before = page[-1].at_ms, page[-1].tenant_id, page[-1].sequence
            return lines

    lines = asyncio.run(read())
    if as_json:
        print_json(list(map(_record, lines)))
    elif lines:
        print_table(COLUMNS, map(_row, lines))
    else:
        print_line("No such acts.")


@app.command()
def verify(
    tenant: Tenant = None,
    head: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|HEAD",
            help="Heads that were noted earlier, which the log must still contain: what `audit head` printed, or a file"
            " of it, or the server's own log.",
        ),
    ] = None,
    as_json: AsJson = False,
    as_lines: AsLines = False,
) -> None:
    """Check every line of the chains. Exit code 0: clean; 1: lines were changed or are missing."""
    noted = [one for text in head or [] for one in _read_heads(text)]
    found = asyncio.run(_verify(tenant, noted, as_lines=as_lines))
    if as_json:
        document = {"lines": found.lines, "chains": found.chains, "noted_heads": len(noted)}
        print_json(document | {"problem_count": found.problem_count, "problems": found.problems})
    else:
        _print_verification(found, len(noted))
    if not found.clean:
        raise typer.Exit(EXIT_PROBLEMS)


@app.command(name="head")
def head_(tenant: Tenant = None, as_json: AsJson = False) -> None:
    """Print how far each chain goes. Keep it out of reach of those who can change the database."""

    async def read() -> list[Head]:
        async with open_administration() as administration:
            session = administration.admin.session
            return await administration.admin.audit_log.heads(session, await _scope(session, tenant))

    heads = asyncio.run(read())
    if as_json:
        print_json([{"tenant_id": one.tenant_id, "sequence": one.sequence, "head": str(one)} for one in heads])
        return
    for one in heads:
        print_line(str(one))


async def _verify(tenant: str | None, noted: list[Head], *, as_lines: bool) -> Verification:
    async with open_administration() as administration:
        audit_log, database = administration.admin.audit_log, administration.context.database
        session = administration.admin.session
        scope = await _scope(session, tenant)
        heads = await audit_log.heads(session, scope) if as_lines else []
        lines = ProgressLines({"lines": sum(head.sequence for head in heads)}) if as_lines else None
        await administration.admin.commit()
        with spinner("Verifying") as show_text:

            def show_progress(found: Verification, *, is_last: bool = False) -> None:
                show_text(f"{found.lines:,} lines verified")
                if lines is not None:
                    lines.show({"lines": found.lines}, is_last=is_last)

            found = await verify_chains(database, audit_log, scope, noted, show_progress)
            show_progress(found, is_last=True)
            return found


def _print_verification(found: Verification, noted: int) -> None:
    for problem in found.problems:
        print_line(f"WRONG  {problem}")
    if found.problem_count > len(found.problems):
        print_line(f"       and {found.problem_count - len(found.problems):,} more")
    print_line(f"chains: {found.chains:,}")
    print_line(f"lines: {found.lines:,}")
    print_line(f"noted heads: {noted:,}")
    if not found.clean:
        print_line(f"tollkeeper: The audit log is wrong. Problems: {found.problem_count:,}", error=True)
    elif noted:
        print_line("Clean: no line was changed, removed or inserted; the noted heads are there.")
    else:
        print_line("Clean: no line was changed, removed or inserted, except perhaps at the ends: give --head to check.")


def _read_heads(text: str) -> list[Head]:
    """The heads of an argument: itself, or those of the file that it names. Raises InvalidRequest."""
    heads = list(Head.find_all(text))
    if heads:
        return heads
    try:
        with Path(text).open(encoding="utf-8", errors="replace") as file:
            heads = [head for line in file for head in Head.find_all(line)]
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its name is not valid"
        raise InvalidRequest(f"{text} is neither a head nor a file that can be read: {reason}.") from None
    if not heads:
        raise InvalidRequest(f"The file {text} contains no heads. `tollkeeper audit head` prints them.")
    return heads


async def _scope(session: AsyncSession, tenant: str | None) -> TenantScope:
    if tenant is None:
        return ALL_TENANTS
    return TenantScope((await accounts.get_tenant_by_name(session, parse_name(tenant))).id)


def _parse_time(text: str | None) -> int | None:
    """A time in milliseconds since the epoch; UTC, unless it says another zone. Raises InvalidRequest."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"{text!r} is no time. Write it like 2027-01-31 or 2027-01-31T12:00Z.") from None
    return int((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _row(line: AuditLine) -> tuple[str, ...]:
    place = format_time(line.at_ms), str(line.tenant_id or ""), str(line.sequence)
    what = line.actor, line.action, line.target, line.before or "", line.after or ""
    return (*place, *what, line.reason or "", line.address)


def _record(line: AuditLine) -> dict[str, Any]:
    return {
        "tenant_id": line.tenant_id or None,
        "sequence": line.sequence,
        "at": iso_time(line.at_ms),
        "actor": line.actor,
        "action": line.action,
        "target": line.target,
        "before": orjson.loads(line.before) if line.before is not None else None,
        "after": orjson.loads(line.after) if line.after is not None else None,
        "reason": line.reason,
        "address": line.address,
        "correlation_id": line.correlation_id,
    }
