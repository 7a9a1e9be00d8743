"""Looks for quotas that have reached a share of their limit, at the interval of the sweep."""

import asyncio

import structlog

from tollkeeper.alerts import detection
from tollkeeper.alerts.models import QuotaAlert
from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.errors import DatabaseUnavailable
from tollkeeper.telemetry.task_runs import NoteRun, Task, ignore_run, noted

MAX_INTERVAL_S = 15.0
DELETION_MS = 3_600_000

log = structlog.get_logger("tollkeeper.alerts")


class QuotaAlerts:
    """Fires alerts, from `start` until `stop`. Each process looks; each alert fires in one."""

    def __init__(self, database: Database, clock: Clock, *, interval_s: float, on_run: NoteRun = ignore_run) -> None:
        self._database = database
        self._clock = clock
        self._interval_s = min(interval_s, MAX_INTERVAL_S)
        self._on_run = on_run
        self._deleted_ms = 0
        self._task: asyncio.Task[None] | None = None
        self.fired = 0
        """How many alerts this process has fired."""

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="quota-alerts")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def run_once(self) -> int:
        """Fire what is due. Returns how many alerts. Raises DatabaseUnavailable."""
        total, is_full = 0, True
        while is_full:
            async with self._database.session() as session:
                found = await detection.find_reached(session, self._clock.now_ms())
            is_full = len(found) == detection.CHUNK
            if found:
                async with self._database.session() as session:
                    fired = await detection.fire(session, found)
                self._note(fired)
                total += len(fired)
        await self._delete_old()
        return total

    async def _delete_old(self) -> None:
        now_ms = self._clock.now_ms()
        if now_ms - self._deleted_ms >= DELETION_MS:
            async with self._database.session() as session:
                await detection.delete_old(session, now_ms)
            self._deleted_ms = now_ms

    def _note(self, fired: list[QuotaAlert]) -> None:
        """Log what is committed."""
        self.fired += len(fired)
        for alert in fired:
            log.warning(
                "quota.alert",
                tenant_id=alert.tenant_id,
                alert_id=alert.id,
                percent=alert.percent,
                quota_id=alert.quota_id,
                kind=alert.kind,
                user_id=alert.user_id,
                unit=alert.unit,
                window=alert.period,
                limit=alert.granted,
                used=alert.settled,
            )

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                with noted(self._on_run, Task.ALERTS):
                    await self.run_once()
            except DatabaseUnavailable:
                log.warning("alerts.not_looked", reason="the database does not respond")
            except Exception:
                log.exception("alerts.not_looked")
