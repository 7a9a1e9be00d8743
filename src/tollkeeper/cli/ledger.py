"""`tollkeeper ledger`: the proof that every balance is what its entries say, and that no quota was ever exceeded."""

import asyncio

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn

from tollkeeper.cli import tables
from tollkeeper.cli.context import opened
from tollkeeper.clock import SystemClock
from tollkeeper.quota.audit.verify import Report
from tollkeeper.quota.audit.verify import verify as replay

app = typer.Typer(help="Verify the ledger.")

FOUND_WRONG = 1


@app.callback()
def ledger() -> None:
    """Verify the ledger."""


@app.command()
def verify() -> None:
    """Replay every window and check every charge. Exit code 0: clean; 1: something is wrong; 2: cannot be read."""
    report = asyncio.run(_verify())
    for problem in report.problems:
        typer.echo(f"WRONG  {problem}")
    if report.problem_count > len(report.problems):
        typer.echo(f"       and {report.problem_count - len(report.problems):,} more")
    typer.echo(f"windows: {report.windows:,}")
    typer.echo(f"entries: {report.entries:,}")
    typer.echo(f"charges: {report.charges:,}")
    typer.echo(f"overruns: {report.overruns:,}")
    typer.echo(
        f"open holds: {report.open_holds:,}" + (f" ({report.lapsed:,} past their lease)" if report.lapsed else "")
    )
    if not report.clean:
        typer.echo(f"tollkeeper: The ledger is wrong in {report.problem_count:,} places.", err=True)
        raise typer.Exit(FOUND_WRONG)
    typer.echo("Clean: every balance is the sum of its entries, and no call was ever admitted above a quota.")


async def _verify() -> Report:
    errors = tables.console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    async with opened() as install:
        with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
            task = progress.add_task("Replaying")

            def tell(report: Report) -> None:
                done = f"{report.entries:,} entries replayed, {report.charges:,} charges checked"
                progress.update(task, description=done)

            return await replay(install.database, now_ms=SystemClock().now_ms(), progress=tell)
