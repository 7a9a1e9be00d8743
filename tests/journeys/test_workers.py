"""A server with several workers: one port, one ledger, one log, one set of metrics; and what the end of one means."""

import asyncio
import json
import os
import signal
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from journeys.support.ledger_checks import assert_ledger_is_consistent
from journeys.support.server import Server
from journeys.support.users import ApiUser, Reply, http_client, new_user
from journeys.test_metrics import scrape, value
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S

CALLS = 24
USAGE = {"prompt_tokens": 15, "completion_tokens": 9}
SETTINGS = {
    "TOLLKEEPER_WORKERS": "2",
    "TOLLKEEPER_RATE_LIMIT_AI": "off",
    "TOLLKEEPER_LEASE_SECONDS": "1",
    "TOLLKEEPER_SWEEP_SECONDS": "0.2",
    "TOLLKEEPER_DRAIN_SECONDS": "0.1",
}
CHARGES = "tollkeeper_charges_total"


def log_lines(server: Server, event: str) -> list[dict[str, Any]]:
    """The whole log is JSON, one object a line; so no line is torn. Returns the lines of one event."""
    lines = [json.loads(line) for line in server.program.output.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def worker_pids(server: Server) -> list[int]:
    """The process ids of the workers, in the order of their starts."""
    return [line["pid"] for line in log_lines(server, "worker.started")]


async def charges_counted(server: Server) -> float:
    """What a worker shows. Each scrape opens a connection, so any worker may answer."""
    status, text = await scrape(server)
    assert status == 200
    return value(text, CHARGES)


@pytest.mark.prove_only_on_postgres
async def test_workers_share_a_port_and_one_is_replaced_without_a_loss(
    make_server: Callable[..., Server], database_url: str, upstream: Upstream
) -> None:
    server = make_server(database_url, OPENAI_BASE_URL=upstream.base_url, **SETTINGS).start()
    async with new_user(server) as caller, asyncio.timeout(TEST_DEADLINE_S):
        await _assert_calls_are_spread_and_counted_together(server, caller, upstream)
        await _assert_a_killed_worker_is_replaced(server, caller, upstream)
        await _assert_a_worker_that_stops_alone_is_replaced(server)
        calls = await _in_flight(caller, upstream, gate := f"{caller.marker}-stop")
        stopping = asyncio.create_task(asyncio.to_thread(server.stop))
        upstream.open(gate)
        assert {(await call).status for call in calls} == {200}
        await stopping
    await assert_ledger_is_consistent(server.database_url)
    assert "open holds: 0\n" in server.command("ledger", "verify")
    assert server.program.output.count("Tollkeeper listens on") == 1


async def _assert_calls_are_spread_and_counted_together(server: Server, caller: ApiUser, upstream: Upstream) -> None:
    calls = await _in_flight(caller, upstream, gate := f"{caller.marker}-spread")
    upstream.open(gate)
    assert {(await call).status for call in calls} == {200}
    assert [await charges_counted(server) for _ in range(8)] == [CALLS] * 8
    _, text = await scrape(server)
    assert (value(text, "tollkeeper_workers"), value(text, "tollkeeper_workers_replaced_total")) == (2, 0)
    while len(made := [one for one in log_lines(server, "http.request") if one["path"] == "/ai/query"]) < CALLS:
        await asyncio.sleep(0.02)
    assert {line["worker"] for line in made} == {1, 2}


async def _assert_a_killed_worker_is_replaced(server: Server, caller: ApiUser, upstream: Upstream) -> None:
    """Its calls fail; the other's go on; its holds are swept; and no counter goes back."""
    calls = await _in_flight(caller, upstream, gate := f"{caller.marker}-kill")
    killed, _ = worker_pids(server)
    os.kill(killed, signal.SIGKILL)
    while sum(call.done() for call in calls) == 0:
        await asyncio.sleep(0.02)
    upstream.open(gate)
    results = await asyncio.gather(*calls, return_exceptions=True)
    lost = [result for result in results if isinstance(result, aiohttp.ClientError)]
    assert 0 < len(lost) < CALLS
    assert len(lost) + sum(isinstance(result, Reply) and result.status == 200 for result in results) == CALLS
    while any(charge["closed_at"] is None for charge in await caller.charges()):
        await asyncio.sleep(0.1)
    while len(worker_pids(server)) < 3:
        await asyncio.sleep(0.05)
    shown = [await charges_counted(server) for _ in range(8)]
    assert shown == sorted(shown)
    assert shown[0] >= 2 * CALLS - len(lost)
    async with http_client(server) as http, http.get("/health") as response:
        assert response.status == 200


async def _assert_a_worker_that_stops_alone_is_replaced(server: Server) -> None:
    """It has let no further connection open; its replacement does, so each new connection is served."""
    before = worker_pids(server)
    os.kill(before[1], signal.SIGTERM)
    while len(worker_pids(server)) == len(before):
        await asyncio.sleep(0.05)
    for _ in range(CALLS):
        async with http_client(server) as http, http.get("/health/live") as response:
            assert response.status == 200


async def _in_flight(caller: ApiUser, upstream: Upstream, gate: str) -> list[asyncio.Task[Reply]]:
    """Start calls, each on a connection of its own, and wait until all wait at this gate in the upstream."""
    prompt = scripted(caller.marker, gate=gate, usage=USAGE)
    calls = [asyncio.create_task(caller.query(prompt, max_tokens=50)) for _ in range(CALLS)]
    while upstream.waiting(gate) < CALLS:
        await asyncio.sleep(0.02)
    return calls
