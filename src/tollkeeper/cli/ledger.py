"""`tollkeeper ledger verify`: checks balances and costs, and that no call exceeded or skipped a quota."""

import asyncio

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn

from tollkeeper.cli.context import open_context
from tollkeeper.cli.output import make_console, print_line
from tollkeeper.quota.audit.report import AuditReport
from tollkeeper.quota.audit.verify import BLIND_SPOTS
from tollkeeper.quota.audit.verify import verify as verify_ledger

app = typer.Typer(name="ledger", help="Verify the ledger.", no_args_is_help=True, add_completion=False)

EXIT_PROBLEMS = 1


@app.callback()
def ledger() -> None:
    """Verify the ledger."""


@app.command()
def verify() -> None:
    """Replay every window, check every charge. Exit code 0: clean; 1: problems found; 2: the ledger cannot be read."""
    report = asyncio.run(_verify())
    for problem in report.problems:
        print_line(f"WRONG  {problem}")
    if report.problem_count > len(report.problems):
        print_line(f"       and {report.problem_count - len(report.problems):,} more")
    print_line(f"windows: {report.windows:,}")
    print_line(f"entries: {report.entries:,}")
    print_line(f"charges: {report.charges:,}")
    print_line(f"overruns: {report.overruns:,}")
    print_line(
        f"open holds: {report.open_holds:,}" + (f" ({report.lapsed:,} past their lease)" if report.lapsed else "")
    )
    if not report.clean:
        print_line(f"tollkeeper: The ledger is wrong in {report.problem_count:,} places.", error=True)
    else:
        print_line("Clean: balances and costs follow from entries and usage, and no call exceeded or skipped a quota.")
    _print_blind_spots(report)
    if not report.clean:
        raise typer.Exit(EXIT_PROBLEMS)


def _print_blind_spots(report: AuditReport) -> None:
    print_line("Not visible to this command:")
    for spot in BLIND_SPOTS:
        print_line(f"  - {spot}")
    if report.undecided:
        print_line(f"Charges in the first minute of a quota that they do not hold on: {report.undecided:,}")


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
