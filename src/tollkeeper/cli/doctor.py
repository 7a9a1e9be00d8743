"""`tollkeeper doctor`: checks whether the installation is ready to serve."""

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer

from tollkeeper.administration.doctor import CheckState, Finding
from tollkeeper.bootstrap.checks import run_checks
from tollkeeper.cli.output import AsJson, print_json, print_line
from tollkeeper.settings import load_settings

app = typer.Typer(add_completion=False)

EXIT_FAILED = 1
NAME_WIDTH = 16


@app.command()
def doctor(
    ask: Annotated[
        bool, typer.Option("--ask", help="Send one small request to each provider, which the provider bills.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check settings, secrets, database, clock, disk, files and providers. Exit code 0: ready; 1: a check failed."""
    settings = load_settings()

    async def run() -> list[Finding]:
        findings = []
        async for finding in run_checks(settings, ask=ask):
            findings.append(finding)
            if not as_json:
                text = " ".join(filter(None, (finding.detail, finding.advice)))
                print_line(f"{finding.state:8} {finding.check:{NAME_WIDTH}} {text}")
        return findings

    findings = asyncio.run(run())
    if as_json:
        print_json([asdict(finding) for finding in findings])
    if any(finding.state is CheckState.FAILED for finding in findings):
        raise typer.Exit(EXIT_FAILED)
