"""SIGTERM while the database is away: the reported cost is kept in a file, and booked by the next start."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from journeys.support.ledger_checks import assert_ledger_is_consistent, charges_in
from journeys.support.processes import ReservedPort
from journeys.support.server import Server
from journeys.support.tcp_proxy import Streams, tcp_proxy
from journeys.support.users import new_user
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S

pytestmark = pytest.mark.exhaustive_on_postgres

USAGE = {"prompt_tokens": 15, "completion_tokens": 9}


@asynccontextmanager
async def breakable(database_url: str) -> AsyncIterator[tuple[str, Callable[[], object], Callable[[], object]]]:
    """Yields a URL of the database, what takes it away from servers that use the URL, and what brings it back."""
    if database_url.startswith("sqlite"):
        path = database_url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(path, isolation_level=None)) as lock:
            yield database_url, lambda: lock.execute("BEGIN IMMEDIATE"), lambda: lock.execute("ROLLBACK")
        return
    port, parts = ReservedPort(), urlsplit(database_url)

    async def connect() -> Streams:
        if folder := parse_qs(parts.query).get("host"):
            return await asyncio.open_unix_connection(f"{folder[0]}/.s.PGSQL.5432")
        return await asyncio.open_connection(parts.hostname, parts.port or 5432)

    credentials = parts.netloc.rpartition("@")[0] or "postgres:"
    async with tcp_proxy(port.number, connect) as proxy:
        url = f"postgresql://{credentials}@127.0.0.1:{port.number}{parts.path}"
        yield url, lambda: asyncio.ensure_future(proxy.cut()), lambda: asyncio.ensure_future(proxy.restore())
    port.free()


@pytest.mark.parametrize("is_writable", [True, False], ids=["kept", "not kept"])
async def test_a_stop_without_the_database_keeps_the_reported_cost(
    make_server: Callable[..., Server], database_url: str, upstream: Upstream, tmp_path: Path, is_writable: bool
) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "spill" if is_writable else tmp_path / "file" / "spill"
    async with breakable(database_url) as (url, take_away, bring_back), asyncio.timeout(2 * TEST_DEADLINE_S):
        server = make_server(url, OPENAI_BASE_URL=upstream.base_url, TOLLKEEPER_SPILL=str(folder))
        await asyncio.to_thread(server.start)
        async with new_user(server) as caller:
            call = asyncio.create_task(caller.query(scripted(caller.marker, gate=caller.marker, usage=USAGE)))
            while not await asyncio.to_thread(upstream.waiting, caller.marker):
                await asyncio.sleep(0.02)
            take_away()
            await asyncio.to_thread(upstream.open, caller.marker)
            assert (await call).body["cost"] == 24
        code = await asyncio.to_thread(server.program.terminate)
        bring_back()
        if is_writable:
            assert (code, len(list(folder.iterdir()))) == (0, 1)
            await asyncio.to_thread(server.start)
            [charge] = await charges_in(database_url)
            assert (charge.state, charge.basis, charge.cost_tokens) == ("settled", "provider", 24)
            assert list(folder.iterdir()) == []
            await assert_ledger_is_consistent(database_url)
            await asyncio.to_thread(server.stop)
        else:
            assert code != 0
            assert "Charges that were not booked: 1." in server.program.output
            [charge] = await charges_in(database_url)
            assert charge.closed_ms is None
