"""A ledger whose clock can be moved over months, and what is archived of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlmodel.ext.asyncio.session import AsyncSession
from verified_ledger import VerifiedLedger, open_verified

from support.factories import FakeClock
from tollkeeper.chat import Usage
from tollkeeper.quota import time_sorted_ids
from tollkeeper.quota.archive.archiver import Archived, Archiver
from tollkeeper.quota.archive.export import Exported, OpenFile
from tollkeeper.quota.archive.files import CsvFile
from tollkeeper.quota.archive.registry import Months
from tollkeeper.usage.rollup import UsageRollup


def at(text: str) -> int:
    """A time in UTC, in milliseconds."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@dataclass
class ArchivedLedger:
    """The times of ids are those of the ledger's clock."""

    ledger: VerifiedLedger
    folder: Path
    noted: list[Months] = field(default_factory=list)
    verified: int = 0
    open_file: OpenFile = CsvFile

    def go_to(self, text: str) -> None:
        self.ledger.clock.ms = at(text)

    async def spend(self, times: int = 1) -> list[str]:
        return [await self.ledger.spend(Usage(3, 4)) for _ in range(times)]

    def archiver(self) -> Archiver:
        async def note(_session: AsyncSession, months: Months, _exported: Exported) -> None:
            self.noted.append(months)

        async def require_clean() -> None:
            self.verified += 1

        return Archiver(
            self.ledger.database,
            self.ledger.clock,
            self.folder,
            self.open_file,
            require_clean=require_clean,
            add_up=UsageRollup(self.ledger.database, self.ledger.clock).run,
            on_archived=note,
        )

    async def archive(self, before: int) -> list[Archived]:
        return [one async for one in self.archiver().run(before)]


@asynccontextmanager
async def open_archived_ledger(
    database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ArchivedLedger]:
    """Its quotas are of 14 November 2023."""
    clock = FakeClock()
    monkeypatch.setattr(time_sorted_ids, "time", SimpleNamespace(time_ns=lambda: clock.ms * 1_000_000))
    async with open_verified(database_url, clock) as ledger:
        yield ArchivedLedger(ledger, folder)
