"""Deletes what has expired: sessions, one-time links, states of single sign-on, second factors never confirmed."""

import asyncio
from collections.abc import Iterator
from typing import Any

import structlog
from sqlmodel import SQLModel, col, delete, or_, select

from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.errors import DatabaseUnavailable
from tollkeeper.identity.models import OneTimeLink, Session, TotpSecret, UsedOidcState
from tollkeeper.telemetry.task_runs import NoteRun, Task, ignore_run, noted

INTERVAL_S = 60.0
ROWS_PER_TRANSACTION = 500
DAY_MS = 86_400_000
KEPT_MS = 2 * DAY_MS
"""How long an ended session is kept: longer than any access token of it can live, which is a day at most."""

log = structlog.get_logger("tollkeeper.auth")


class IdentityCleanup:
    """Runs the deletion beside the server. `on_run` is called after each run."""

    def __init__(self, database: Database, clock: Clock, *, on_run: NoteRun = ignore_run) -> None:
        self._database = database
        self._clock = clock
        self._on_run = on_run
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="identity-cleanup")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def delete_expired(self) -> int:
        """Delete all expired rows, in short transactions. Returns their number. Raises DatabaseUnavailable."""
        deleted = 0
        for table, key, is_expired in self._expired():
            found = ROWS_PER_TRANSACTION
            while found == ROWS_PER_TRANSACTION:
                some = select(key).where(is_expired).limit(ROWS_PER_TRANSACTION)
                async with self._database.session() as session:
                    found = (await session.exec(delete(table).where(key.in_(some)))).rowcount
                deleted += found
        return deleted

    def _expired(self) -> Iterator[tuple[type[SQLModel], Any, Any]]:
        """Tables, their keys, and which of their rows are to go."""
        now_ms = self._clock.now_ms()
        ended = or_(col(Session.expires_ms) < now_ms - KEPT_MS, col(Session.revoked_ms) < now_ms - KEPT_MS)
        yield Session, col(Session.id), ended
        yield OneTimeLink, col(OneTimeLink.token_hash), col(OneTimeLink.expires_ms) < now_ms - DAY_MS
        yield UsedOidcState, col(UsedOidcState.state_hash), col(UsedOidcState.expires_ms) < now_ms
        forgotten = col(TotpSecret.confirmed_ms).is_(None) & (col(TotpSecret.created_ms) < now_ms - DAY_MS)
        yield TotpSecret, col(TotpSecret.user_id), forgotten

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                with noted(self._on_run, Task.IDENTITY_CLEANUP):
                    await self.delete_expired()
            except DatabaseUnavailable:
                log.warning("auth.cleanup_failed", reason="the database is unavailable")
            except Exception:
                log.exception("auth.cleanup_failed")
