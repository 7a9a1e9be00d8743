"""The ledger on PostgreSQL: one asyncpg connection per process, set-based statements, READ COMMITTED."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import asyncpg
import structlog

from tollkeeper.clock import Clock
from tollkeeper.database.errors import describe_error
from tollkeeper.database.postgres_connection import driver_statements
from tollkeeper.quota.rules.idempotency_keys import KEY_LIFETIME_MS
from tollkeeper.quota.rules.page import Page, ReadSet
from tollkeeper.quota.stores.base import RowsLocked, StoreFailed
from tollkeeper.quota.stores.postgres.connection import (
    BEGIN,
    COMMAND_TIMEOUT_S,
    CONNECT_TIMEOUT_S,
    LOCKED,
    NOW_MS,
    OUTAGES,
    Connection,
)
from tollkeeper.quota.stores.postgres.free_charges import delete_free_charges
from tollkeeper.quota.stores.postgres.idempotency_keys import delete_old_keys
from tollkeeper.quota.stores.postgres.locked_rows import CONTENDED_LOCK_TIMEOUT_MS, SUSPECT_LOCK_TIMEOUT_MS, LockedRows
from tollkeeper.quota.stores.postgres.page_reader import PageReader
from tollkeeper.quota.stores.postgres.windows import StaleMemory, WrongGuess
from tollkeeper.quota.stores.postgres.writes import write

log = structlog.get_logger("tollkeeper.ledger")

_FIND_LAPSED = (
    f"SELECT id, tenant_id FROM charges WHERE closed_ms IS NULL AND lease_ms < {NOW_MS} ORDER BY lease_ms LIMIT $2"
    " FOR UPDATE SKIP LOCKED"
)


class PostgresStore:
    """The store of an installation with any number of processes and hosts. The time is the database's."""

    lost_reason: str | None = None
    refuses_calls = False

    def __init__(
        self,
        database_url: str,
        clock: Clock | None = None,
        *,
        prepared_statements: bool = True,
        key_lifetime_ms: int = KEY_LIFETIME_MS,
    ) -> None:
        """`clock` replaces the database's clock in tests. Without `prepared_statements`, a pooler in transaction mode
        may stand between.
        """
        self._url = database_url
        self._statements = driver_statements(prepared=prepared_statements)
        self._clock = clock
        self._key_lifetime_ms = key_lifetime_ms
        self._locked = LockedRows()
        self._reader = PageReader(self._locked)
        self._connection: Connection | None = None

    async def run(self, read_set: ReadSet, decide: Callable[[Page], None]) -> None:
        if self._locked:
            await self._look_for_locks()
        try:
            await self._run_afresh(read_set, decide)
        except LOCKED:
            await self._look_for_locks(read_set)
            try:
                await self._run_afresh(read_set, decide)
            except LOCKED as error:
                raise RowsLocked from error

    async def _run_afresh(self, read_set: ReadSet, decide: Callable[[Page], None]) -> None:
        """Run the batch, with nothing remembered if what was remembered is no longer true."""
        try:
            try:
                await self._run(read_set, decide)
            except WrongGuess:
                await self._run(read_set, decide, guess=False)
        except StaleMemory:
            log.warning("ledger.database_restored")
            self._reader.clear()
            await self._run(read_set, decide, guess=False)

    async def _look_for_locks(self, read_set: ReadSet | None = None) -> None:
        """Look for locked rows among those of this read set; without one, look again at those that were locked.

        Raises RowsLocked if a table is locked so that its rows cannot be looked at.
        """
        try:
            connection = await self._connect()
            if read_set is None:
                await self._locked.refresh(connection)
            else:
                await self._locked.find(connection, read_set, self._injected_ms())
        except LOCKED as error:
            await self._roll_back()
            if read_set is not None:
                raise RowsLocked from error
        except OUTAGES as error:
            await self._reset()
            raise StoreFailed(_one_line(error), maybe_committed=False) from error

    async def _run(self, read_set: ReadSet, decide: Callable[[Page], None], *, guess: bool = True) -> None:
        """One try of `run`. Raises what is in LOCKED, StaleMemory and WrongGuess, too, after a rollback."""
        committing = False
        try:
            connection = await self._connect()
            timeout_ms = SUSPECT_LOCK_TIMEOUT_MS if read_set.is_suspect else self._locked.lock_timeout_ms
            await connection.execute(BEGIN.format(lock_timeout_ms=timeout_ms))
            page = await self._reader.read(connection, read_set, self._injected_ms(), guess=guess)
            page.key_lifetime_ms = self._key_lifetime_ms
            decide(page)
            if page.has_changes:
                await write(connection, page)
                committing = True
                await connection.execute("COMMIT")
            else:
                await connection.execute("ROLLBACK")
            self._reader.committed()
        except (*LOCKED, StaleMemory, WrongGuess):
            await self._roll_back()
            raise
        except OUTAGES as error:
            await self._reset()
            raise StoreFailed(_one_line(error), maybe_committed=committing) from error
        except BaseException:
            await self._reset()
            raise

    async def find_lapsed(self, limit: int) -> list[tuple[str, int]]:
        async with self._separate_transaction() as connection:
            return [(row[0], row[1]) for row in await connection.fetch(_FIND_LAPSED, self._injected_ms(), limit)]

    async def delete_old_keys(self, limit: int) -> int:
        async with self._separate_transaction() as connection:
            return await delete_old_keys(connection, self._injected_ms(), self._key_lifetime_ms, limit)

    async def delete_free_charges(self, min_age_ms: int, limit: int) -> int:
        async with self._separate_transaction() as connection:
            return await delete_free_charges(connection, self._injected_ms(), min_age_ms, limit)

    async def probe(self) -> None:
        try:
            connection = await self._connect()
            begin = BEGIN.format(lock_timeout_ms=CONTENDED_LOCK_TIMEOUT_MS)
            await connection.execute(f"{begin}; UPDATE policy SET version = version WHERE tenant_id = 0; COMMIT")
        except (*LOCKED, *OUTAGES) as error:
            await self._reset()
            raise StoreFailed(_one_line(error), maybe_committed=False) from error

    async def close(self) -> None:
        await self._reset()

    async def _connect(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(
                self._url,
                timeout=CONNECT_TIMEOUT_S,
                command_timeout=COMMAND_TIMEOUT_S,
                server_settings={"application_name": "tollkeeper-ledger"},
                **self._statements,
            )
        return self._connection

    @asynccontextmanager
    async def _separate_transaction(self) -> AsyncIterator[Connection]:
        """A transaction on a connection of its own, so that no batch waits for it. Raises StoreFailed."""
        try:
            connection = await asyncpg.connect(
                self._url, timeout=CONNECT_TIMEOUT_S, command_timeout=COMMAND_TIMEOUT_S, **self._statements
            )
            try:
                await connection.execute(BEGIN.format(lock_timeout_ms=CONTENDED_LOCK_TIMEOUT_MS))
                yield connection
                await connection.execute("COMMIT")
            finally:
                await connection.close()
        except (*LOCKED, *OUTAGES) as error:
            raise StoreFailed(_one_line(error), maybe_committed=False) from error

    async def _roll_back(self) -> None:
        """After a batch that did not get its locks. Raises StoreFailed."""
        self._reader.rolled_back()
        try:
            await (await self._connect()).execute("ROLLBACK")
        except OUTAGES as error:
            await self._reset()
            raise StoreFailed(_one_line(error), maybe_committed=False) from error

    async def _reset(self) -> None:
        """After a failed batch: discard what was read, and close the connection, which rolls the batch back."""
        self._reader.clear_uncommitted()
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*OUTAGES):
                await connection.close(timeout=1)

    def _injected_ms(self) -> int | None:
        return self._clock.now_ms() if self._clock is not None else None


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {describe_error(error)}"
