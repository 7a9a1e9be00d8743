"""Jobs that a process of its own runs, and that another takes over when it stops."""

import asyncio
import secrets
from collections.abc import Callable, Iterator

import pytest

from journeys.support.jobs import ended, read, submitted, wait_until
from journeys.support.processes import Program
from journeys.support.server import Server
from journeys.support.users import new_user
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S

pytestmark = pytest.mark.exhaustive_on_postgres


@pytest.fixture
def workers() -> Iterator[list[Program]]:
    """Worker processes. Those that still run are killed at the end."""
    started: list[Program] = []
    yield started
    for program in started:
        if program.running:
            program.kill()


async def test_a_worker_runs_what_a_server_has_accepted_and_leaves_the_rest_when_it_stops(
    make_server: Callable[..., Server], database_url: str, own_upstream: Upstream, workers: list[Program]
) -> None:
    server = make_server(
        database_url,
        OPENAI_BASE_URL=own_upstream.base_url,
        TOLLKEEPER_JOBS="off",
        TOLLKEEPER_JOBS_CONCURRENCY="1",
        TOLLKEEPER_GRACE_SECONDS="1",
    ).start()
    gate = secrets.token_hex(8)
    async with new_user(server) as caller:
        with own_upstream.gate(gate):
            first = await submitted(caller, caller.marker)
            cut = await submitted(caller, scripted(caller.marker, answer="one two three", gate_after=[2, gate]))
            left = await submitted(caller, f"left-{caller.marker}")
            assert (await read(caller, first))["status"] == "pending"

            workers.append(server.background("worker"))
            assert (await ended(caller, first))["status"] == "completed"
            await wait_until(caller, cut, "processing")
            async with asyncio.timeout(TEST_DEADLINE_S):
                while not [one for one in own_upstream.sent(caller.marker) if one.tokens == 2]:
                    await asyncio.sleep(0.05)
            assert await asyncio.to_thread(workers[0].terminate) == 0, workers[0].output
            assert "Traceback" not in workers[0].output, workers[0].output
            stopped = await read(caller, cut)
            assert (stopped["status"], stopped["error"]["code"]) == ("failed", "shutting_down")
            charges = {charge["state"]: charge for charge in await caller.charges()}
            assert charges["reserved"]["cost"] == 0
            [charge] = [one for one in await caller.charges() if one["basis"] == "counted"]
            assert (charge["output_tokens"], charge["error"]) == (2, "CancelledError")
            assert (await read(caller, left))["status"] == "pending"
            assert own_upstream.requests(f"left-{caller.marker}") == []

        server.stop()
        assert "open holds: 1" in server.command("ledger", "verify"), "a job that waits holds its quota"
        server.start(TOLLKEEPER_JOBS="on")
        assert (await ended(caller, left))["status"] == "completed"
        assert (await caller.quota())["reserved"] == 0
    server.stop()
