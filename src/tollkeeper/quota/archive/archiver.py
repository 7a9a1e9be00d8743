"""Archives months, step by step. Each step can be repeated, so a command that was killed is continued by the next.

1. The archive is entered: its charges change no more. 2. Charges and entries are exported, and what they leave of each
window is written as its carry, which does not count yet. 3. When the files are on the disk, the carries count, and the
rows do not. 4. The rows are removed.
"""

import fcntl
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.clock import Clock
from tollkeeper.database import ledger_partitions
from tollkeeper.database.engine import Database
from tollkeeper.errors import ConfigurationError
from tollkeeper.private_files import FILE_MODE, create_private_folder
from tollkeeper.quota.archive.export import Export, Exported, OpenFile, Progress
from tollkeeper.quota.archive.files import ExportFolder
from tollkeeper.quota.archive.registry import Months, Registry, Unfinished, has_unfinished
from tollkeeper.quota.archive.removal import lock_out, remove
from tollkeeper.quota.audit.cut import EXPORTING, read_cut
from tollkeeper.quota.audit.reading import read
from tollkeeper.quota.audit.verify import ledger_id
from tollkeeper.quota.partition_months import end_of, month_before, written

DAY_MS = 86_400_000
MIN_AGE_MS = 35 * DAY_MS
"""How long ago a month must have ended."""
NO_LIMIT = 2**62
_PREFIXES = ("adm", "arc", "chg", "win")
_OLDEST_OF_TENANT = ", ".join(
    [
        "(SELECT month FROM charges WHERE tenant_id = tenants.id AND month > :cut ORDER BY month LIMIT 1)",
        *(
            f"(SELECT month FROM entries WHERE tenant_id = tenants.id AND source_id >= :first_{prefix}"
            f" AND source_id < '{prefix}`' ORDER BY source_id LIMIT 1)"
            for prefix in _PREFIXES
        ),
    ]
)
_OLDEST_MONTHS = text(f"SELECT {_OLDEST_OF_TENANT} FROM tenants")
"""Of the months that are not archived, by the indexes of the keys: SQLite would read all rows to find the oldest."""

OnArchived = Callable[[AsyncSession, Months, Exported], Awaitable[None]]
"""Called in the transaction from which on the rows do not count: to note it in the audit log."""


@dataclass(frozen=True, slots=True)
class Archived:
    """An archive that has ended. `exported` is None if an earlier command had exported it."""

    months: Months
    folder: Path
    exported: Exported | None


async def is_due(database: Database, before: int) -> bool:
    """Whether months before this one are to be archived, or an archive has not ended. Raises DatabaseUnavailable."""
    if await has_unfinished(database) or await _find_next(database, before) is not None:
        return True
    async with database.session() as session:
        connection = await session.connection()
        if not await connection.run_sync(ledger_partitions.are_used):
            return False
        return any(month < before for month in await connection.run_sync(ledger_partitions.months_of_default))


class Archiver:
    """Archives into one folder.

    `require_clean` is called before anything is exported: it raises ConfigurationError if the ledger is wrong.
    `add_up` is called when the charges of the months change no more, while they are all there: reports and statements
    need their sums.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        folder: Path,
        open_file: OpenFile,
        *,
        require_clean: Callable[[], Awaitable[None]],
        add_up: Callable[[], Awaitable[object]],
        on_archived: OnArchived,
        progress: Progress = lambda *_: None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._folder = folder
        self._open_file = open_file
        self._require_clean = require_clean
        self._add_up = add_up
        self._on_archived = on_archived
        self._progress = progress
        self._registry = Registry(database, f"{socket.gethostname()}:{folder}"[-500:])

    async def run(self, before: int) -> AsyncIterator[Archived]:
        """Continue what an earlier command has begun, then archive every month before this one, the oldest first.

        Raises ConfigurationError, which says what to do; DatabaseUnavailable, OSError. What has been archived until
        then is complete, and the next run continues.
        """
        self._require_age(month_before(before))
        with _locked(self._folder):
            await self._add_partitions()
            unfinished = await self._registry.take_unfinished(self._clock.now_ms())
            if unfinished is not None and unfinished.state != EXPORTING:
                yield await self._finish(unfinished)
                unfinished = None
            if unfinished is None and await _find_next(self._database, before) is None:
                return
            await self._require_clean()
            if unfinished is not None:
                yield await self._archive(unfinished.months)
            while (months := await _find_next(self._database, before)) is not None:
                await self._begin(months)
                yield await self._archive(months)

    def _require_age(self, month: int) -> None:
        """Raise ConfigurationError if the month ended less than MIN_AGE_MS ago."""
        if end_of(month) + MIN_AGE_MS > self._clock.now_ms():
            raise ConfigurationError(
                f"{written(month)} cannot be archived yet: calls, refunds and corrections of a month are booked until"
                f" {MIN_AGE_MS // DAY_MS} days after its end."
            )

    async def _begin(self, months: Months) -> None:
        ledger = await ledger_id(self._database, await read_cut(self._database))
        await self._registry.begin(months, ledger, self._clock.now_ms())

    async def _archive(self, months: Months) -> Archived:
        await lock_out(self._database, months)
        await self._add_up()
        cut = (await read_cut(self._database)).month
        folder = await self._export_folder(months)
        export = Export(self._database, self._registry, months, cut, self._clock, self._progress)
        exported = await export.write(folder, self._open_file)
        async with self._database.session() as session:
            rows = exported.charges, exported.entries
            await self._registry.exported(session, months, exported.manifest_hash, rows, exported.whole)
            await self._on_archived(session, months, exported)
        await self._remove(months)
        return Archived(months, folder.path, exported)

    async def _finish(self, unfinished: Unfinished) -> Archived:
        """Remove the rows of an archive that an earlier command has exported."""
        folder = await self._export_folder(unfinished.months)
        folder.require_complete(unfinished.manifest_hash)
        await self._remove(unfinished.months)
        return Archived(unfinished.months, folder.path, None)

    async def _remove(self, months: Months) -> None:
        await remove(self._database, self._registry, months, self._clock, self._progress)
        await self._registry.finish(months, self._clock.now_ms())

    async def _export_folder(self, months: Months) -> ExportFolder:
        ledger = await ledger_id(self._database, await read_cut(self._database))
        return ExportFolder(self._folder, months.label, ledger)

    async def _add_partitions(self) -> None:
        """Have each month in a partition, on PostgreSQL."""
        async with self._database.session() as session:
            connection = await session.connection()
            if await connection.run_sync(ledger_partitions.are_used):
                await connection.run_sync(ledger_partitions.add_missing, most_moved=NO_LIMIT)


async def _find_next(database: Database, before: int) -> Months | None:
    """The oldest months that are to be archived before this one. Raises DatabaseUnavailable."""
    async with database.session() as session:
        connection = await session.connection()
        if await connection.run_sync(ledger_partitions.are_used):
            for partition in await connection.run_sync(ledger_partitions.find, "charges"):
                if partition.month_after is not None and partition.month_after <= before:
                    return Months(partition.first_month, month_before(partition.month_after))
            return None
    cut = (await read_cut(database)).month
    cut_ms = end_of(cut) if cut else 0
    values = {f"first_{prefix}": f"{prefix}_{cut_ms:012x}" for prefix in _PREFIXES}
    rows = await read(database, _OLDEST_MONTHS, cut=cut, **values)
    found = [month for row in rows for month in row if month is not None and month < before]
    return Months(min(found), min(found)) if found else None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let no other command archive into this folder. Raises ConfigurationError."""
    try:
        create_private_folder(folder)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, FILE_MODE)
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be used: {error.strerror}.") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ConfigurationError(f"Another command archives into {folder}. Wait for its end.") from None
    finally:
        os.close(descriptor)
