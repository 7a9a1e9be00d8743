"""A backup is made while the server serves, and restored; what was called since is booked anew from the events."""

import asyncio
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from journeys.support.endpoints import NATIVE_STREAM, open_call
from journeys.support.ledger_checks import assert_ledger_is_consistent, charges_in
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S
from support.postgres_servers import execute, find_stock, on_database

pytestmark = pytest.mark.stock_postgres

USAGE = {"input": 15, "output": 9}
COST = 24
LOST = 3

Backup = Callable[[Server], Callable[[], str]]
"""Makes a backup of a running server's database. Returns how to restore it, which returns the URL."""


def back_up_sqlite(server: Server) -> Callable[[], str]:
    path = Path(server.database_url.removeprefix("sqlite:///"))
    copy = path.with_name("backup.db")
    assert "checked, and on the disk" in server.command("backup", str(copy))

    def restore() -> str:
        """As the guide says: the log of the lost database must not stay beside the restored one."""
        aside = path.with_name("before-restore")
        aside.mkdir()
        for each in path.parent.glob(f"{path.name}*"):
            each.rename(aside / each.name)
        shutil.copy(copy, path)
        return server.database_url

    return restore


def back_up_postgres(server: Server) -> Callable[[], str]:
    binaries, url = find_stock(), server.database_url
    assert binaries is not None
    dump = subprocess.run(
        [binaries / "pg_dump", "--format=custom", url], capture_output=True, check=True, env=dict(os.environ)
    )

    def restore() -> str:
        name = f"restored_{uuid.uuid4().hex}"
        restored = on_database(url, name)
        asyncio.run(execute(url, f'CREATE DATABASE "{name}"'))
        subprocess.run([binaries / "pg_restore", "--dbname", restored], input=dump.stdout, check=True)
        return restored

    return restore


@pytest.fixture(params=["sqlite", pytest.param("stock_postgres", marks=pytest.mark.exhaustive)])
def database(request: pytest.FixtureRequest) -> tuple[str, Backup]:
    """The URL of a database, and how to back it up."""
    url = str(request.getfixturevalue(f"{request.param}_url"))
    return url, back_up_sqlite if request.param == "sqlite" else back_up_postgres


async def test_what_a_restored_database_lacks_is_booked_from_the_events_once(
    make_server: Callable[..., Server], database: tuple[str, Backup], own_upstream: Upstream, tmp_path: Path
) -> None:
    database_url, back_up = database
    events = tmp_path / "events.jsonl"
    server = make_server(database_url, OPENAI_BASE_URL=own_upstream.base_url, TOLLKEEPER_EVENTS_FILE=str(events))
    server.start()
    async with new_user(server) as caller, asyncio.timeout(TEST_DEADLINE_S):
        prompt = scripted(caller.marker, usage=USAGE)
        assert (await caller.query(prompt)).status == 200
        in_flight = asyncio.create_task(caller.query(scripted(caller.marker, gate="later", usage=USAGE)))
        while not own_upstream.waiting("later"):
            await asyncio.sleep(0.02)
        restore = await asyncio.to_thread(back_up, server)
        own_upstream.open("later")
        assert (await in_flight).body["cost"] == COST
        used = await _call_after_the_backup(caller, prompt)
        async with new_user(server) as later:
            assert (await later.query(scripted(later.marker, usage=USAGE))).status == 200
        assert (await caller.quota())["used"] == used
        await asyncio.to_thread(server.stop)

        server.database_url = await asyncio.to_thread(restore)
        server.configure(TOLLKEEPER_DATABASE_URL=server.database_url)
        expected = {"booked": 2, "lost": LOST, "open": 1, "without_user": 1, "too_old": 0, "too_new": 0, "refused": 0}
        for apply in (False, True):
            found = await _recover(server, events, *["--apply"] * apply)
            assert (found["applied"], found["calls"]) == (apply, expected)
            assert found["lost_tokens"] == used - 2 * COST
        found = await _recover(server, events)
        assert found["calls"] == expected | {"booked": 3 + LOST, "lost": 0, "open": 0}

        await asyncio.to_thread(server.start)
        quota = await caller.quota()
        assert (quota["used"], quota["reserved"]) == (used, 0)
        assert (await caller.query(prompt)).status == 200
    charges = await charges_in(server.database_url)
    assert sum(charge.error == "recovered" for charge in charges) == LOST
    await assert_ledger_is_consistent(server.database_url)
    assert "open holds: 0\n" in server.command("ledger", "verify")
    assert "ledger.recover" in server.command("audit", "list")
    server.stop()


async def _call_after_the_backup(caller: ApiUser, prompt: str) -> int:
    """LOST calls, one of them a stream that the client leaves, and one that the provider refuses. Returns the usage."""
    replies = [await caller.query(prompt) for _ in range(LOST - 1)]
    assert [reply.status for reply in replies] == [200] * (LOST - 1)
    cut = scripted(caller.marker, answer="one two three four", gate_after=[2, "never"])
    async with open_call(caller, NATIVE_STREAM, cut, "gpt-4o-mini", 50) as stream:
        await stream.read_words(2)
        await stream.disconnect()
    assert (await caller.query(scripted(caller.marker, status=400))).status == 400
    while (quota := await caller.quota())["reserved"]:
        await asyncio.sleep(0.05)
    used: int = quota["used"]
    return used


async def _recover(server: Server, events: Path, *options: str) -> Any:
    arguments = ("ledger", "recover", "--events", str(events), "--json", *options)
    return json.loads(await asyncio.to_thread(server.command, *arguments))
