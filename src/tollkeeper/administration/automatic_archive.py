"""Runs `tollkeeper archive` when a month is old enough, where the operator has turned that on."""

import asyncio
import json
import random

import structlog

from tollkeeper.administration.commands import run_command
from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.errors import DatabaseUnavailable
from tollkeeper.quota.archive.archiver import is_due
from tollkeeper.quota.partition_months import months_before
from tollkeeper.telemetry.task_runs import NoteRun, Task, ignore_run, noted

INTERVAL_S = 3_600.0

log = structlog.get_logger("tollkeeper.ledger")


class ArchiveFailed(Exception):
    """`tollkeeper archive` has ended with an error, which is the text."""


class AutomaticArchive:
    """Looks at the start, and about every INTERVAL_S, whether a month is to be archived: all but the last `months` are.

    Several servers may do so: the command lets one of them archive. `on_run` is called after each look.
    """

    def __init__(
        self, database: Database, database_url: str, clock: Clock, *, months: int, on_run: NoteRun = ignore_run
    ) -> None:
        self._database = database
        self._database_url = database_url
        self._clock = clock
        self._months = months
        self._on_run = on_run
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="archive")

    async def stop(self) -> None:
        """End it, and a command that runs: the next run continues what that has begun."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def archive(self) -> list[str]:
        """Archive what is due. Returns the months. Raises ArchiveFailed, DatabaseUnavailable."""
        if not await is_due(self._database, months_before(self._months, self._clock.now_ms())):
            return []
        ended = await run_command(("archive", "--json"), self._database_url)
        if ended.code != 0:
            raise ArchiveFailed(ended.error)
        return [one["months"] for one in json.loads(ended.output)["archived"]]

    async def _run(self) -> None:
        while True:
            try:
                with noted(self._on_run, Task.ARCHIVE):
                    months = await self.archive()
                if months:
                    log.info("ledger.archived", months=months)
            except (ArchiveFailed, DatabaseUnavailable) as error:
                log.error("ledger.not_archived", reason=str(error))
            except Exception:
                log.exception("ledger.not_archived")
            await asyncio.sleep(INTERVAL_S * random.uniform(0.75, 1.25))
