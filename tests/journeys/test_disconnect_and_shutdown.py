"""The caller goes away, or the server is told to: what is in flight is finished and paid (JSON calls run on)."""

import asyncio
from collections.abc import Callable

import pytest

from journeys.support.ledger_checks import assert_books_are_right, charges_in
from journeys.support.server import Server
from journeys.support.users import Person, Reply, person
from journeys.upstream.handle import Upstream, scripted
from patience import PATIENCE_S

pytestmark = pytest.mark.exhaustive_on_postgres

USAGE = {"prompt_tokens": 15, "completion_tokens": 9}


async def test_a_caller_who_hangs_up_pays_what_the_upstream_reports(server: Server, upstream: Upstream) -> None:
    async with person(server) as caller:
        with upstream.gate(caller.marker):
            call = await _in_flight(caller, upstream)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert (await caller.charges())[0]["state"] == "dispatched"
        async with asyncio.timeout(PATIENCE_S):
            while (charge := (await caller.charges())[0])["state"] == "dispatched":
                await asyncio.sleep(0.05)
        assert (charge["state"], charge["basis"], charge["cost"]) == ("settled", "provider", 24)
        quota = await caller.quota()
        assert (quota["used"], quota["reserved"]) == (24, 0)
    assert len(upstream.seen(caller.marker)) == 1


async def test_told_to_stop_the_server_finishes_what_is_in_flight(
    make_server: Callable[..., Server], database_url: str, upstream: Upstream
) -> None:
    server = make_server(database_url, OPENAI_BASE_URL=upstream.base_url).start()
    async with person(server) as caller:
        call = await _in_flight(caller, upstream)
        stopping = asyncio.create_task(asyncio.to_thread(server.stop))
        await _refuses_connections(server)
        upstream.open(caller.marker)
        assert (await call).body["cost"] == 24
        await stopping
    await _assert_settled(server, basis="provider")


async def test_past_the_grace_period_the_server_cuts_what_is_in_flight_and_leaves_no_hold(
    make_server: Callable[..., Server], database_url: str, upstream: Upstream
) -> None:
    server = make_server(database_url, OPENAI_BASE_URL=upstream.base_url).start(
        ("journeys.support.serve_with_short_grace", "serve")
    )
    async with person(server) as caller:
        call = await _in_flight(caller, upstream)
        await asyncio.to_thread(server.stop)
        assert (await call).status == 503
    await _assert_settled(server, basis="unknown")


async def _in_flight(caller: Person, upstream: Upstream) -> asyncio.Task[Reply]:
    """A call that the upstream has, and does not answer until its gate is opened."""
    prompt = scripted(caller.marker, gate=caller.marker, usage=USAGE)
    call = asyncio.create_task(caller.ask(prompt, max_tokens=50))
    async with asyncio.timeout(PATIENCE_S):
        while not upstream.waiting(caller.marker):
            await asyncio.sleep(0.02)
    return call


async def _refuses_connections(server: Server) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            except ConnectionRefusedError:
                return
            writer.close()
            await asyncio.sleep(0.02)


async def _assert_settled(server: Server, basis: str) -> None:
    await assert_books_are_right(server.database_url)
    (charge,) = await charges_in(server.database_url)
    assert (charge.state, charge.basis) == ("settled", basis)
    assert charge.cost_tokens > 0
