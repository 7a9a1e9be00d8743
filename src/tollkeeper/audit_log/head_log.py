"""Logs the heads of the audit log's chains: a cut at the end of a chain is found with the server's own log."""

import asyncio
from contextlib import suppress

import structlog
from sqlmodel import col, select

from tollkeeper.audit_log.log import Head
from tollkeeper.audit_log.models import AuditHead, AuditLine
from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.telemetry.task_runs import NoteRun, Task, ignore_run, noted

INTERVAL_S = 3_600.0
OVERLAP_MS = 60_000
"""Lines carry the time at which their act began, and are committed a moment later."""
HEADS_PER_QUERY = 500

log = structlog.get_logger("tollkeeper.audit")


class HeadLog:
    """Logs, at the start and each hour, the head of each chain that was extended within the last hour.

    `on_run` is called after each run.
    """

    def __init__(self, database: Database, clock: Clock, *, on_run: NoteRun = ignore_run) -> None:
        self._database = database
        self._clock = clock
        self._on_run = on_run
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the task."""
        self._task = asyncio.create_task(self._run(), name="audit-heads")

    async def stop(self) -> None:
        """Cancel the task."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            try:
                with noted(self._on_run, Task.AUDIT_HEADS):
                    await self.write()
            except Exception:
                log.exception("audit.heads_not_logged")
            await asyncio.sleep(INTERVAL_S)

    async def write(self) -> int:
        """Log the heads of the chains that were extended within the last hour. Returns how many."""
        since_ms = self._clock.now_ms() - int(INTERVAL_S * 1000) - OVERLAP_MS
        after, count = -1, 0
        while True:
            heads, last = await self._read(since_ms, after)
            for head in heads:
                log.info("audit.head", tenant_id=head.tenant_id, sequence=head.sequence, head=str(head))
            count += len(heads)
            if last is None:
                return count
            after = last

    async def _read(self, since_ms: int, after: int) -> tuple[list[Head], int | None]:
        """The heads to log among the next chains, and the last of these chains; None if there are no more."""
        order = col(AuditHead.tenant_id)
        query = select(AuditHead, AuditLine.at_ms).where(order > after).order_by(order).limit(HEADS_PER_QUERY)
        is_last = (col(AuditLine.tenant_id) == order) & (col(AuditLine.sequence) == col(AuditHead.sequence))
        async with self._database.session() as session:
            rows = (await session.exec(query.outerjoin(AuditLine, is_last))).all()
        heads = [
            Head(row.tenant_id, row.sequence, row.mac.hex())
            for row, at_ms in rows
            if at_ms is None or at_ms >= since_ms
        ]
        return heads, rows[-1][0].tenant_id if len(rows) == HEADS_PER_QUERY else None
