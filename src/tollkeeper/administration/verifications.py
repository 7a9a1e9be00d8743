"""Verifications of the ledger and of the audit log at an administrator's request.

Each is a command in a process of its own. At most one of a kind runs at once, for each server process.
"""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import msgspec
import structlog

from tollkeeper.administration.commands import run_command
from tollkeeper.clock import Clock

CLEAN, PROBLEMS = 0, 1
"""The exit codes of a verification that has come to its end."""

log = structlog.get_logger("tollkeeper.administration")


class RunState(StrEnum):
    """What became of a verification. `failed`: it did not come to its end."""

    NONE = "none"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"


class Progress(msgspec.Struct, frozen=True):
    """How far a verification is: the `share` of its work, from 0 to 1, and what was `checked`, of `about` how many."""

    share: float | None
    checked: dict[str, int]
    about: dict[str, int]


class _ProgressLine(msgspec.Struct, frozen=True):
    progress: Progress


@dataclass(frozen=True, slots=True)
class Run:
    """The last verification of this server process. `report` is what the command prints with --json, and `progress` the
    last one that it has printed.
    """

    state: RunState = RunState.NONE
    started_ms: int | None = None
    finished_ms: int | None = None
    error: str | None = None
    report: Mapping[str, Any] | None = None
    progress: Progress | None = None


class CommandRunner:
    """Runs one verifying command of the `tollkeeper` program, at most once at a time.

    `arguments` are the command and its options; other settings than that of the database are those of the environment.
    """

    def __init__(self, arguments: tuple[str, ...], database_url: str, clock: Clock) -> None:
        self._arguments = arguments
        self._database_url = database_url
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self.last = Run()

    def start(self) -> Run:
        """Start a run, unless one is running. Returns it."""
        if self.last.state is not RunState.RUNNING:
            self.last = Run(RunState.RUNNING, self._clock.now_ms())
            self._task = asyncio.create_task(self._run(), name="verification")
        return self.last

    async def stop(self) -> None:
        """End a run."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        ended = await run_command(self._arguments, self._database_url, self._take_progress)
        finished = replace(self.last, state=RunState.FAILED, finished_ms=self._clock.now_ms())
        if ended.code in (CLEAN, PROBLEMS):
            with suppress(ValueError):
                self.last = replace(finished, state=RunState.FINISHED, report=json.loads(ended.output))
                return
        self.last = replace(finished, error=ended.error)
        log.error("verification.failed", command=" ".join(self._arguments), error=self.last.error)

    def _take_progress(self, line: bytes) -> bool:
        try:
            self.last = replace(self.last, progress=msgspec.json.decode(line, type=_ProgressLine).progress)
        except msgspec.DecodeError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Verifications:
    """The verifications of a server process."""

    ledger: CommandRunner
    audit_log: CommandRunner

    async def stop(self) -> None:
        """End what is running."""
        await asyncio.gather(self.ledger.stop(), self.audit_log.stop())


def make_verifications(database_url: str, clock: Clock) -> Verifications:
    """The verifications of the installation with this database."""
    commands = ("ledger", "verify", "--json", "--progress"), ("audit", "verify", "--json", "--progress")
    return Verifications(*(CommandRunner(command, database_url, clock) for command in commands))
