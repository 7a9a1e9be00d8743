"""`tollkeeper ledger verify`: checks balances and costs, and that no call exceeded or skipped a quota."""

import asyncio
import shlex
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from tollkeeper.cli import EXIT_INTERRUPTED, reconcile, recovery
from tollkeeper.cli.context import open_context
from tollkeeper.cli.output import AsJson, iso_time, print_json, print_line
from tollkeeper.cli.progress import AsLines, ProgressLines, spinner
from tollkeeper.quota.audit.cut import read_cut
from tollkeeper.quota.audit.report import AuditReport
from tollkeeper.quota.audit.totals import estimate_totals
from tollkeeper.quota.audit.verify import BLIND_SPOTS
from tollkeeper.quota.audit.verify import verify as verify_ledger
from tollkeeper.quota.partition_months import written
from tollkeeper.quota.time_sorted_ids import time_of

app = typer.Typer(
    name="ledger",
    help="Verify the ledger; recover what a restored one has lost; compare it with a provider's export.",
    no_args_is_help=True,
    add_completion=False,
)

EXIT_PROBLEMS = 1


@app.callback()
def ledger() -> None:
    """Verify the ledger; recover what a restored one has lost; compare it with a provider's export."""


@app.command()
def verify(
    since: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Check only what was written since the verification that FILE remembers, and remember this one in it."
            " Creates FILE. After Ctrl-C, the same command continues.",
        ),
    ] = None,
    as_json: AsJson = False,
    as_lines: AsLines = False,
) -> None:
    """Replay every window, check every charge. Exit code 0: clean; 1: problems found; 2: the ledger cannot be read."""
    try:
        report = asyncio.run(_verify(since, as_lines=as_lines))
    except KeyboardInterrupt:
        if since is None:
            raise
        print_line(
            "tollkeeper: Interrupted. What was verified so far is remembered. Continue with:"
            f" tollkeeper ledger verify --since {shlex.quote(str(since))}",
            error=True,
        )
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if as_json:
        print_json(_record(report))
    else:
        _print_report(report)
    if not report.clean:
        raise typer.Exit(EXIT_PROBLEMS)


recovery.register(app)
reconcile.register(app)


def _record(report: AuditReport) -> dict[str, Any]:
    fields = asdict(report)
    since = iso_time(time_of(report.since)) if report.since else None
    archived = written(report.archived) if report.archived else None
    return fields | {"since": since, "archived": archived, "problems": [str(problem) for problem in report.problems]}


def _print_report(report: AuditReport) -> None:
    if report.since:
        began = datetime.fromtimestamp(time_of(report.since) / 1000, UTC)
        print_line(f"Written since the last verification, which began at {began:%Y-%m-%d %H:%M:%S} UTC:")
    for problem in report.problems:
        print_line(f"WRONG  {problem}")
    if report.problem_count > len(report.problems):
        print_line(f"       and {report.problem_count - len(report.problems):,} more")
    if report.archived:
        print_line(
            f"archived: until {written(report.archived)}; older entries count as the sums that the archives left"
        )
    print_line(f"windows: {report.windows:,}")
    print_line(f"entries: {report.entries:,}")
    print_line(f"charges: {report.charges:,}")
    print_line(f"overruns: {report.overruns:,}")
    print_line(
        f"open holds: {report.open_holds:,}" + (f" ({report.lapsed:,} past their lease)" if report.lapsed else "")
    )
    _print_blind_spots(report)
    if not report.clean:
        print_line(f"tollkeeper: The ledger is wrong. Problems: {report.problem_count:,}", error=True)
    else:
        print_line("Clean: balances and costs follow from entries and usage, and no call exceeded or skipped a quota.")


def _print_blind_spots(report: AuditReport) -> None:
    print_line("Not visible to this command:")
    for spot in BLIND_SPOTS:
        print_line(f"  - {spot}")
    if report.since:
        print_line("  - changes of what was written before, except of the balances of windows")
    if report.undecided:
        print_line(f"Charges in the first minute of a quota that they do not hold on: {report.undecided:,}")


async def _verify(mark_file: Path | None, *, as_lines: bool) -> AuditReport:
    async with open_context() as context:
        database = context.database
        totals = await estimate_totals(database, await read_cut(database)) if as_lines and mark_file is None else None
        lines = ProgressLines(totals._asdict() if totals is not None else {}) if as_lines else None
        with spinner("Replaying") as show_text:

            def show_progress(report: AuditReport, *, is_last: bool = False) -> None:
                show_text(f"{report.entries:,} entries replayed, {report.charges:,} charges checked")
                if lines is not None:
                    lines.show({"entries": report.entries, "charges": report.charges}, is_last=is_last)

            report = await verify_ledger(
                database, now_ms=context.clock.now_ms(), progress=show_progress, mark_file=mark_file
            )
            show_progress(report, is_last=True)
            return report
