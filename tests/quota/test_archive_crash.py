"""`tollkeeper archive` dies by SIGKILL at each of its steps; the same command, or a server, completes the archive."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from archived_ledger import open_archived_ledger

from journeys.support.archive_failpoints import POINTS
from journeys.support.server import Server
from support.deadlines import TEST_DEADLINE_S
from tollkeeper.clock import SystemClock
from tollkeeper.database.engine import Database
from tollkeeper.quota.audit.report import AuditReport
from tollkeeper.quota.audit.verify import verify

pytestmark = [pytest.mark.exhaustive, pytest.mark.prove_only_on_postgres]

CALLS = 5
FIRST, SECOND = "2023-11", "2023-12"


@pytest.fixture
async def old(database_url: str, tmp_path: Path) -> AsyncIterator[Server]:
    """An installation, not started, with calls of November and December 2023."""
    with pytest.MonkeyPatch.context() as patch:
        async with open_archived_ledger(database_url, tmp_path / "archive", patch) as ledger:
            await ledger.spend(CALLS)
            ledger.go_to("2023-12-05T12:00:00")
            await ledger.spend(CALLS)
    (tmp_path / "server").mkdir()
    server = Server(database_url, tmp_path / "server", {"TOLLKEEPER_ARCHIVE": str(tmp_path / "archive")})
    yield server
    server.free()


async def test_an_archive_that_is_killed_at_any_step_is_continued_and_the_books_add_up(
    old: Server, tmp_path: Path
) -> None:
    for point in POINTS:
        program = old.background(point, "--before", SECOND, module="journeys.support.archive_failpoints")
        code = await asyncio.to_thread(program.wait_for_end)
        assert code == -signal.SIGKILL, (point, program.output)
        assert (await verified(old)).problems == [], point
    assert FIRST in await asyncio.to_thread(old.command, "archive", "--before", SECOND)
    report = await verified(old)
    assert (report.problems, report.charges, report.archived) == ([], CALLS, 202311)

    killed = old.background("exporting", module="journeys.support.archive_failpoints")
    assert await asyncio.to_thread(killed.wait_for_end) == -signal.SIGKILL
    await asyncio.to_thread(old.start, TOLLKEEPER_ARCHIVE_BY_SERVER="on")
    deadline = time.monotonic() + TEST_DEADLINE_S
    while "ledger.archived" not in old.program.output:
        assert time.monotonic() < deadline, old.program.output
        await asyncio.sleep(0.1)
    await asyncio.to_thread(old.stop)
    report = await verified(old)
    assert (report.problems, report.charges, report.archived) == ([], 0, 202312)
    assert sorted(path.name for path in (tmp_path / "archive").iterdir()) == [".lock", FIRST, SECOND]


async def verified(server: Server) -> AuditReport:
    database = Database(server.database_url)
    try:
        return await verify(database, now_ms=SystemClock().now_ms())
    finally:
        await database.close()
