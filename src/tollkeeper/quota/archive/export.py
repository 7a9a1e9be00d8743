"""Exports the charges and entries of some months, and writes the carries of their windows.

Rows are read in chunks, in the order of their keys; a window is carried when its last entry was read.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import text

from tollkeeper.clock import Clock
from tollkeeper.database.engine import SCHEMA_REVISION, Database
from tollkeeper.quota.archive.carries import WindowToCarry, find_windows, write_carries
from tollkeeper.quota.archive.files import ExportFolder, FileFacts, TableFile, not_written
from tollkeeper.quota.archive.registry import Months, Registry
from tollkeeper.quota.audit.cut import EXPORTING, WholeWindows
from tollkeeper.quota.audit.facts import Key
from tollkeeper.quota.audit.reading import BEFORE_ALL_TENANTS, read
from tollkeeper.quota.rules.carry import BALANCES, Carry
from tollkeeper.quota.rules.charge_row import CHARGE_COLUMNS
from tollkeeper.quota.rules.page import EntryRow
from tollkeeper.quota.time_sorted_ids import new_id

CHUNK_ROWS = 1_000
_OF_MONTHS = "month BETWEEN :first_month AND :last_month"
_CHARGES = text(
    f"SELECT {', '.join(CHARGE_COLUMNS)} FROM charges WHERE {_OF_MONTHS} AND (tenant_id, month, id) >"
    " (:tenant_id, :month, :id) ORDER BY tenant_id, month, id LIMIT :most"
)
_ENTRIES = text(
    f"SELECT {', '.join(EntryRow._fields)} FROM entries WHERE {_OF_MONTHS} AND (tenant_id, window_id, sequence) >"
    " (:tenant_id, :window_id, :sequence) ORDER BY tenant_id, window_id, sequence LIMIT :most"
)
_KEY_OF_CHARGE = [CHARGE_COLUMNS.index(name) for name in ("tenant_id", "month", "id")]
_COSTS = ("cost_tokens", "cost_micro_usd", "forgiven_tokens", "forgiven_micro_usd")
_PLACES_OF_COSTS = [CHARGE_COLUMNS.index(name) for name in _COSTS]

OpenFile = Callable[[Path, str, Sequence[str]], TableFile]
"""Creates a file for the rows of a table, with these columns, in a folder."""
Progress = Callable[[str, int], None]
"""Receives what is being done, and with how many rows so far."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A complete export, on the disk."""

    manifest_hash: str
    charges: int
    entries: int
    whole: WholeWindows


class Export:
    """The export of some months. `cut` is the last month that is archived already."""

    def __init__(
        self, database: Database, registry: Registry, months: Months, cut: int, clock: Clock, progress: Progress
    ) -> None:
        self._database = database
        self._registry = registry
        self._months = months
        self._cut = cut
        self._clock = clock
        self._progress = progress
        self._source_id = new_id("arc")
        self._sums = dict.fromkeys(BALANCES, 0)
        self._costs = dict.fromkeys(_COSTS, 0)
        self._entries = 0
        self._whole = WholeWindows()

    async def write(self, folder: ExportFolder, open_file: OpenFile) -> Exported:
        """Raises ConfigurationError if the files cannot be written; DatabaseUnavailable."""
        folder.begin()
        try:
            files = await self._write_files(folder.part, open_file)
        except OSError as error:
            raise not_written(folder.part, error) from None
        manifest_hash = folder.complete(files, self._facts())
        return Exported(manifest_hash, files[0].rows, files[1].rows, self._whole)

    async def _write_files(self, folder: Path, open_file: OpenFile) -> list[FileFacts]:
        with ExitStack() as stack:
            charges = stack.enter_context(open_file(folder, "charges", CHARGE_COLUMNS))
            entries = stack.enter_context(open_file(folder, "entries", EntryRow._fields))
            await self._write_charges(charges)
            await self._write_entries(entries)
            return [charges.close(), entries.close()]

    def _facts(self) -> dict[str, Any]:
        return {
            "first_month": self._months.first_month,
            "month": self._months.month,
            "schema_revision": SCHEMA_REVISION,
            "exported_at": datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC).isoformat(),
            "sums": {"charges": self._costs, "entries": self._sums},
            "windows_without_entries": self._whole._asdict(),
        }

    async def _write_charges(self, file: TableFile) -> None:
        place: dict[str, Any] = {"tenant_id": BEFORE_ALL_TENANTS, "month": 0, "id": ""}
        done = 0
        while rows := await self._read(_CHARGES, place):
            file.write(rows)
            for row in rows:
                for name, index in zip(_COSTS, _PLACES_OF_COSTS, strict=True):
                    self._costs[name] += row[index] or 0
            place = dict(zip(place, (rows[-1][index] for index in _KEY_OF_CHARGE), strict=True))
            done += len(rows)
            self._progress("charges exported", done)
            await self._renew()

    async def _write_entries(self, file: TableFile) -> None:
        place: dict[str, Any] = {"tenant_id": BEFORE_ALL_TENANTS, "window_id": 0, "sequence": 0}
        carries: dict[WindowToCarry, Carry] = {}
        window: WindowToCarry | None = None
        while rows := await self._read(_ENTRIES, place):
            known = await find_windows(self._database, {(row[0], row[1]) for row in rows}, self._cut)
            carried = [row for row in rows if row[2] > 0]
            lines = dict(zip(((row[0], row[1], row[2]) for row in carried), file.write(carried), strict=True))
            complete: dict[WindowToCarry, Carry] = {}
            for row in rows:
                key: Key = row[0], row[1]
                if window is None or window.key != key:
                    complete |= carries
                    window = known[key]
                    carries = {window: window.carry}
                if (line := lines.get(row[:3])) is not None:
                    carries = {window: carries[window].add(row[2], row[5], row[6:10], line)}
                    self._add(row)
            await self._carry(complete)
            place = dict(zip(place, rows[-1][:3], strict=True))
            self._progress("entries exported", self._entries)
        await self._carry(carries)

    def _add(self, row: tuple[Any, ...]) -> None:
        self._entries += 1
        for name, amount in zip(BALANCES, row[6:10], strict=True):
            self._sums[name] += amount

    async def _carry(self, carries: Mapping[WindowToCarry, Carry]) -> None:
        async with self._database.session() as session:
            now_ms = self._clock.now_ms()
            await self._registry.renew(session, self._months, EXPORTING, now_ms)
            found = await write_carries(session, carries, self._months, self._source_id, now_ms)
        self._whole = self._whole.plus(found)

    async def _read(self, statement: Any, place: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        months = {"first_month": self._months.first_month, "last_month": self._months.month}
        return list(map(tuple, await read(self._database, statement, most=CHUNK_ROWS, **months, **place)))

    async def _renew(self) -> None:
        async with self._database.session() as session:
            await self._registry.renew(session, self._months, EXPORTING, self._clock.now_ms())
