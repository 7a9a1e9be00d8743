"""Verifications of the ledger and of the audit log at an administrator's request.

They take minutes on large installations, and use the processor all the time. So each is a command in a process of its
own, at a low priority: it delays neither the event loop nor other threads. At most one of a kind runs at once, for each
server process.
"""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import structlog

from tollkeeper.clock import Clock

CLEAN, PROBLEMS = 0, 1
"""The exit codes of a verification that has come to its end."""
MAX_ERROR_LENGTH = 500
_PROGRAM = "import os, runpy; os.nice(10); runpy.run_module('tollkeeper', run_name='__main__')"

log = structlog.get_logger("tollkeeper.administration")


class RunState(StrEnum):
    """What became of a verification. `failed`: it did not come to its end."""

    NONE = "none"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Run:
    """The last verification of this server process. `report` is what the command prints with --json."""

    state: RunState = RunState.NONE
    started_ms: int | None = None
    finished_ms: int | None = None
    error: str | None = None
    report: Mapping[str, Any] | None = None


class CommandRunner:
    """Runs one verifying command of the `tollkeeper` program, at most once at a time.

    `arguments` are the command and its options; `environment` is added to that of this process.
    """

    def __init__(self, arguments: tuple[str, ...], environment: Mapping[str, str], clock: Clock) -> None:
        self._arguments = arguments
        self._environment = environment
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
        try:
            code, output, errors = await self._execute()
        except OSError as error:
            code, output, errors = -1, b"", str(error.strerror).encode()
        finished = replace(self.last, state=RunState.FAILED, finished_ms=self._clock.now_ms())
        if code in (CLEAN, PROBLEMS):
            with suppress(ValueError):
                self.last = replace(finished, state=RunState.FINISHED, report=json.loads(output))
                return
        lines = errors.decode(errors="replace").strip().splitlines() or [f"It ended with the exit code {code}."]
        self.last = replace(finished, error=lines[-1][:MAX_ERROR_LENGTH])
        log.error("verification.failed", command=" ".join(self._arguments), error=self.last.error)

    async def _execute(self) -> tuple[int | None, bytes, bytes]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _PROGRAM,
            *self._arguments,
            env={**os.environ, **self._environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            output, errors = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        return process.returncode, output, errors


@dataclass(frozen=True, slots=True)
class Verifications:
    """The verifications of a server process."""

    ledger: CommandRunner
    audit_log: CommandRunner

    async def stop(self) -> None:
        """End what is running."""
        await asyncio.gather(self.ledger.stop(), self.audit_log.stop())


def make_verifications(database_url: str, clock: Clock) -> Verifications:
    """The verifications of the installation with this database; other settings are those of the environment."""
    environment = {"TOLLKEEPER_DATABASE_URL": database_url}
    commands = ("ledger", "verify", "--json"), ("audit", "verify", "--json")
    return Verifications(*(CommandRunner(command, environment, clock) for command in commands))
