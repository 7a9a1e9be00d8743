"""When each API key was last used: noted in memory, and written in the background, at most once a minute per key."""

import asyncio
import logging
from collections.abc import Collection
from contextlib import suppress

from sqlalchemy import text
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.errors import DatabaseUnavailable
from tollkeeper.identity.models import ApiKeyUse
from tollkeeper.principal import Principal

PRECISION_MS = 60_000
"""A use is noted only this long after the one that was noted before."""
WRITE_INTERVAL_S = 10.0
MAX_NOTED_KEYS = 20_000
"""How many keys a process remembers as noted. It forgets all when there are more: some are then written early."""

log = logging.getLogger("tollkeeper.keys")

_WRITE = text(
    "INSERT INTO api_key_uses (key_id, tenant_id, used_ms)"
    " SELECT id, tenant_id, :used_ms FROM api_keys WHERE id = :key_id"
    " ON CONFLICT (key_id) DO UPDATE SET used_ms = excluded.used_ms"
    " WHERE api_key_uses.used_ms <= excluded.used_ms - :precision_ms"
)


async def last_uses(session: AsyncSession, tenant_ids: Collection[int], key_ids: Collection[str]) -> dict[str, int]:
    """When the keys of these tenants were last used, by their ids. A key that was never used is not in it."""
    query = select(ApiKeyUse).where(col(ApiKeyUse.tenant_id).in_(tenant_ids), col(ApiKeyUse.key_id).in_(key_ids))
    return {use.key_id: use.used_ms for use in (await session.exec(query)).all()}


class KeyUses:
    """Notes uses of keys. A crash loses those of the last WRITE_INTERVAL_S seconds."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._noted: dict[str, int] = {}
        self._unwritten: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    def note(self, caller: Principal) -> None:
        """Note that a caller was authenticated, if by a key. Does no input or output."""
        key_id = caller.api_key
        if key_id is None:
            return
        now_ms = self._clock.now_ms()
        if now_ms - self._noted.get(key_id, 0) < PRECISION_MS:
            return
        if len(self._noted) >= MAX_NOTED_KEYS:
            self._noted.clear()
        self._noted[key_id] = self._unwritten[key_id] = now_ms

    def start(self) -> None:
        """Start to write in the background."""
        self._task = asyncio.create_task(self._write_repeatedly(), name="key-uses")

    async def stop(self) -> None:
        """Write what is noted, and stop."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        await self._try_to_write()

    async def write(self) -> None:
        """Write what is noted, in one transaction. A row of another process that is nearly as new stays as it is.

        Raises DatabaseUnavailable; then it stays noted.
        """
        if not self._unwritten:
            return
        written, self._unwritten = self._unwritten, {}
        rows = [
            {"key_id": key_id, "used_ms": used_ms, "precision_ms": PRECISION_MS}
            for key_id, used_ms in sorted(written.items())  # one order of locks in all processes
        ]
        try:
            async with self._database.session() as session:
                await (await session.connection()).execute(_WRITE, rows)
        except BaseException:
            self._unwritten = written | self._unwritten
            raise

    async def _write_repeatedly(self) -> None:
        while True:
            await asyncio.sleep(WRITE_INTERVAL_S)
            await self._try_to_write()

    async def _try_to_write(self) -> None:
        try:
            await self.write()
        except DatabaseUnavailable:
            log.warning("The database is unavailable: when keys were last used is written later.")
        except Exception:
            log.exception("When keys were last used could not be written.")
