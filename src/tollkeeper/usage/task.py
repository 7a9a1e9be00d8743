"""Runs the roll-ups of usage at the interval of the sweep, and closes months that are over."""

import asyncio
import time

import structlog

from tollkeeper.errors import DatabaseUnavailable
from tollkeeper.telemetry.task_runs import NoteRun, Task, ignore_run, noted
from tollkeeper.usage.rollup import UsageRollup
from tollkeeper.usage.statement_closing import StatementClosing

SHARE_OF_INTERVAL = 0.6
"""A process leaves a run out if another one has begun its own less than this share of the interval ago."""

CLOSING_INTERVAL_S = 600.0
"""How often months are looked for that can be closed."""

log = structlog.get_logger("tollkeeper.usage")


class UsageTask:
    """Adds up what has changed, from `start` until `stop`."""

    def __init__(
        self, rollup: UsageRollup, closing: StatementClosing, *, interval_s: float, on_run: NoteRun = ignore_run
    ) -> None:
        self._rollup = rollup
        self._closing = closing
        self._closes_at = 0.0
        self._interval_s = interval_s
        self._on_run = on_run
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="usage-rollup")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        pause_ms = int(self._interval_s * SHARE_OF_INTERVAL * 1000)
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                with noted(self._on_run, Task.USAGE):
                    await self._rollup.run(unless_since_ms=pause_ms)
                    await self._close_months()
            except DatabaseUnavailable:
                log.warning("usage.not_rolled_up", reason="the database does not respond")
            except Exception:
                log.exception("usage.not_rolled_up")

    async def _close_months(self) -> None:
        if time.monotonic() < self._closes_at:
            return
        closed = await self._closing.run()
        self._closes_at = time.monotonic() + CLOSING_INTERVAL_S
        if closed:
            log.info("usage.months_closed", count=closed)
