"""`tollkeeper statement`: what a tenant had, was granted and has spent in a month."""

import asyncio
import csv
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from tollkeeper.administration.statements import read_statement
from tollkeeper.cli.arguments import parse_name
from tollkeeper.cli.context import open_administration
from tollkeeper.cli.output import print_json
from tollkeeper.identity import accounts
from tollkeeper.usage.statement_rendering import statement_page, statement_record, statement_rows

app = typer.Typer(add_completion=False)


class StatementFormat(StrEnum):
    """How a statement is printed."""

    JSON = "json"
    CSV = "csv"
    HTML = "html"


@app.command()
def statement(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="The name of the tenant.")],
    month: Annotated[str, typer.Argument(metavar="YYYY-MM", help="The month of its calendar that began then.")],
    format_: Annotated[
        StatementFormat, typer.Option("--format", help="HTML is a page to print.")
    ] = StatementFormat.CSV,
) -> None:
    """Print the statement of a tenant's month: as it was closed; until then, as it is now."""

    async def read() -> dict[str, Any]:
        async with open_administration() as administration:
            admin = administration.admin
            found = await accounts.get_tenant_by_name(admin.session, parse_name(tenant))
            assert found.id is not None
            return statement_record(*await read_statement(admin, found.id, month))

    record = asyncio.run(read())
    if format_ is StatementFormat.JSON:
        print_json(record)
    elif format_ is StatementFormat.CSV:
        csv.writer(sys.stdout).writerows(statement_rows(record))
    else:
        typer.echo(statement_page(record))
