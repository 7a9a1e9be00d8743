"""`tollkeeper ledger verify`: checks that every balance is the sum of its entries and no quota was exceeded."""

import asyncio

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn

from tollkeeper.cli.context import open_context
from tollkeeper.cli.output import make_console
from tollkeeper.quota.audit.verify import AuditReport
from tollkeeper.quota.audit.verify import verify as verify_ledger

app = typer.Typer(help="Verify the ledger.")

EXIT_PROBLEMS = 1


@app.callback()
def ledger() -> None:
    """Verify the ledger."""


@app.command()
def verify() -> None:
    """Replay every window, check every charge. Exit code 0: clean; 1: problems found; 2: the ledger cannot be read."""
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
        raise typer.Exit(EXIT_PROBLEMS)
    typer.echo("Clean: every balance is the sum of its entries, and no call was ever admitted above a quota.")


async def _verify() -> AuditReport:
    console = make_console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    async with open_context() as context:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("Replaying")

            def show_progress(report: AuditReport) -> None:
                text = f"{report.entries:,} entries replayed, {report.charges:,} charges checked"
                progress.update(task, description=text)

            return await verify_ledger(context.database, now_ms=context.clock.now_ms(), progress=show_progress)
