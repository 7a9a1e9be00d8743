"""`tollkeeper ledger reconcile`: compares a provider's own usage export with the charges."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from tollkeeper.cli.arguments import parse_name, parse_number
from tollkeeper.cli.context import open_context
from tollkeeper.cli.output import AsJson, format_time, iso_time, print_json, print_line
from tollkeeper.errors import InvalidRequest
from tollkeeper.identity import accounts
from tollkeeper.tenant_scope import ALL_TENANTS, TenantScope
from tollkeeper.usage.exports import COLUMNS, NEEDED_COLUMNS, ExportFormat, ExportLine, read_export
from tollkeeper.usage.reconciliation import Amounts, Difference, Reconciliation, reconcile
from tollkeeper.usage.rollup import UsageRollup

EXIT_DIFFERENCES = 1
MAX_IDS = 10_000


def register(app: typer.Typer) -> None:
    app.command(name="reconcile")(reconcile_command)


def reconcile_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="The export; several are taken together.")],
    provider: Annotated[
        str, typer.Option(metavar="NAME", show_default=False, help="The provider, as charges name it.")
    ],
    format_: Annotated[ExportFormat, typer.Option("--format", show_default=False, help="Whose export it is, or CSV.")],
    tenant: Annotated[
        str | None,
        typer.Option(metavar="NAME", show_default=False, help="Only its charges: for an export of its own key."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="EXPORT=OURS", show_default=False, help="Our name for a model; may be repeated."),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT=COLUMN",
            show_default=False,
            help=f"The column of a CSV file for each of {', '.join(COLUMNS)}; may be repeated.",
        ),
    ] = None,
    hours: Annotated[
        str, typer.Option(metavar="N", help="How long a line of a CSV file is about that has no end.")
    ] = "24",
    ids: Annotated[str, typer.Option(metavar="N", help="How many charges to list of each difference.")] = "20",
    as_json: AsJson = False,
) -> None:
    """Compare a provider's usage export with the charges of the same time, by model.

    Exit code 0: no differences; 1: differences, which are listed with their charges.
    """
    columns = _pairs(column, "--column")
    if unknown := columns.keys() - set(COLUMNS):
        raise InvalidRequest(f"--column: {sorted(unknown)[0]!r} is none of {', '.join(COLUMNS)}.")
    if format_ is ExportFormat.CSV and (missing := set(NEEDED_COLUMNS) - columns.keys()):
        raise InvalidRequest(f"Give the column of the file for {', '.join(sorted(missing))}, with --column.")
    width = timedelta(hours=parse_number(hours, "--hours", 1, 24 * 31))
    lines = [line for path in files for line in read_export(path, format_, columns, width)]
    most = parse_number(ids, "--ids", 0, MAX_IDS)
    found = asyncio.run(_reconcile(parse_name(provider), tenant, lines, _pairs(model, "--model"), most))
    if as_json:
        print_json(_record(found))
    else:
        _print(found)
    if found.differences:
        raise typer.Exit(EXIT_DIFFERENCES)


async def _reconcile(
    provider: str, tenant: str | None, lines: list[ExportLine], models: dict[str, str], most_ids: int
) -> Reconciliation:
    async with open_context() as context:
        await UsageRollup(context.database, context.clock).run()
        async with context.database.session() as session:
            scope = ALL_TENANTS
            if tenant is not None:
                scope = TenantScope((await accounts.get_tenant_by_name(session, parse_name(tenant))).id)
            return await reconcile(session, scope, provider, lines, models, most_ids=most_ids)


def _pairs(texts: list[str] | None, option: str) -> dict[str, str]:
    pairs = {}
    for one in texts or []:
        name, equals, value = one.partition("=")
        if not (name and equals and value):
            raise InvalidRequest(f"{option}: {one!r} is not written as NAME=VALUE.")
        pairs[name] = value
    return pairs


def _print(found: Reconciliation) -> None:
    for one in found.differences:
        print_line(f"DIFFERENT  {format_time(one.start_ms)} to {format_time(one.end_ms)}, {one.model}")
        for name, reported, ours in _changed(one):
            print_line(
                f"           {name.replace('_', ' ')}: {reported:,} reported, {ours:,} charged ({ours - reported:+,})"
            )
        for charge_id in one.charge_ids:
            print_line(f"           {charge_id}")
    print_line(f"compared times and models: {found.compared:,}")
    print_line(f"differences: {len(found.differences):,}")
    if found.left_out:
        print_line(f"tenants with a key of their own, which are left out: {', '.join(map(str, found.left_out))}")


def _changed(one: Difference) -> list[tuple[str, int, int]]:
    pairs = zip(Amounts._fields, one.reported, one.charged, strict=True)
    return [(name, reported, ours or 0) for name, reported, ours in pairs if reported is not None and reported != ours]


def _record(found: Reconciliation) -> dict[str, Any]:
    differences = [
        {
            "from": iso_time(one.start_ms),
            "to": iso_time(one.end_ms),
            "model": one.model,
            "reported": one.reported._asdict(),
            "charged": one.charged._asdict(),
            "charges": one.charge_ids,
        }
        for one in found.differences
    ]
    return {"compared": found.compared, "left_out": found.left_out, "differences": differences}
