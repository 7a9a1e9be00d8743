"""`tollkeeper archive`: moves old months of the ledger to files."""

import asyncio
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.audit_log.log import Act
from tollkeeper.audit_log.models import INSTALLATION
from tollkeeper.cli.context import CommandContext, open_administration
from tollkeeper.cli.output import AsJson, make_console, print_json, print_line
from tollkeeper.errors import ConfigurationError, InvalidRequest
from tollkeeper.quota.archive.archiver import Archived, Archiver
from tollkeeper.quota.archive.export import Exported, OpenFile
from tollkeeper.quota.archive.files import CsvFile
from tollkeeper.quota.archive.registry import Months
from tollkeeper.quota.audit.verify import verify
from tollkeeper.quota.partition_months import months_before, parse_month
from tollkeeper.settings.extras import missing_package
from tollkeeper.usage.rollup import UsageRollup
from tollkeeper.usage.statement_closing import StatementClosing

PROGRAM = "cli"

app = typer.Typer(add_completion=False)


class FileFormat(StrEnum):
    """The formats of the files."""

    CSV = "csv"
    PARQUET = "parquet"


@app.command()
def archive(
    before: Annotated[
        str | None,
        typer.Option(
            metavar="YYYY-MM",
            show_default=False,
            help="Archive the months before this one. Default: all but the last TOLLKEEPER_ARCHIVE_MONTHS.",
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            show_default=False,
            help="Gets a folder for each month. Default: TOLLKEEPER_ARCHIVE.",
        ),
    ] = None,
    file_format: Annotated[
        FileFormat | None,
        typer.Option("--format", show_default=False, help="Of the files. Default: TOLLKEEPER_ARCHIVE_FORMAT, or csv."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Move old months of the ledger to files.

    Their charges and entries are exported, then deleted. Balances stay what they are. Servers can run
    meanwhile. The ledger is verified first. If the command is interrupted, run it again.
    """
    month = _parse(before)
    done = asyncio.run(_archive(month, to, file_format))
    if as_json:
        print_json({"archived": [_record(one) for one in done]})
        return
    for one in done:
        rows = f" (charges: {one.exported.charges:,}, entries: {one.exported.entries:,})" if one.exported else ""
        print_line(f"{one.months.label}: {one.folder}{rows}")
    if not done:
        print_line("There is nothing to archive.")


def _parse(before: str | None) -> int | None:
    try:
        return parse_month(before) if before is not None else None
    except ValueError as error:
        raise InvalidRequest(f"--before: {error}.") from None


def _open_file(file_format: FileFormat) -> OpenFile:
    """Raises ConfigurationError where the library of a format is not installed."""
    if file_format is FileFormat.CSV:
        return CsvFile
    try:
        from tollkeeper.quota.archive.parquet import ParquetFile  # an optional dependency
    except ModuleNotFoundError:
        raise missing_package("An archive as Parquet", "parquet") from None
    return ParquetFile


async def _archive(before: int | None, to: Path | None, file_format: FileFormat | None) -> list[Archived]:
    console = make_console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    async with open_administration(PROGRAM) as administration:
        context = administration.context
        folder = to or context.settings.archive
        if folder is None:
            raise ConfigurationError("Give the folder for the files: --to FOLDER, or TOLLKEEPER_ARCHIVE.")
        if before is None:
            before = months_before(context.settings.archive_months, context.clock.now_ms())
        open_file = _open_file(file_format or FileFormat(context.settings.archive_format))
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("Verifying the ledger")

            async def note(session: AsyncSession, months: Months, exported: Exported) -> None:
                admin = administration.admin
                act = Act(INSTALLATION, admin.name, "ledger.archive", f"month:{months.label}", after=_facts(exported))
                await admin.audit_log.add(session, act, context.clock.now_ms())

            archiver = Archiver(
                context.database,
                context.clock,
                folder.absolute(),
                open_file,
                require_clean=partial(_require_clean, context),
                add_up=partial(_add_up, context),
                on_archived=note,
                progress=lambda what, rows: progress.update(task, description=f"{rows:,} {what}"),
            )
            return [one async for one in archiver.run(before)]


async def _add_up(context: CommandContext) -> None:
    """Add up what the months have spent, and close them: their charges are not there later."""
    await UsageRollup(context.database, context.clock).run()
    await StatementClosing(context.database, context.clock).run()


async def _require_clean(context: CommandContext) -> None:
    """Raise ConfigurationError if the ledger is wrong: what is wrong could not be found in an archive."""
    report = await verify(context.database, now_ms=context.clock.now_ms())
    if not report.clean:
        raise ConfigurationError(
            f"The ledger is wrong (problems: {report.problem_count:,}), so nothing is archived."
            " See: tollkeeper ledger verify"
        )


def _facts(exported: Exported) -> dict[str, Any]:
    return {"charges": exported.charges, "entries": exported.entries, "manifest": exported.manifest_hash}


def _record(archived: Archived) -> dict[str, Any]:
    facts = _facts(archived.exported) if archived.exported is not None else {}
    return {"months": archived.months.label, "folder": str(archived.folder), **facts}
