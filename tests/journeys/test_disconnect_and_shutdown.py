"""The client disconnects, or the server stops: calls in flight that do not stream are finished and charged."""

import asyncio
from collections.abc import Callable

import pytest

from journeys.support.ledger_checks import assert_ledger_is_consistent, charges_in
from journeys.support.server import Server
from journeys.support.users import ApiUser, Reply, new_user
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S

pytestmark = [
    pytest.mark.exhaustive_on_postgres,
    pytest.mark.prove_only_on_postgres(
        but=("test_after_the_grace_period_the_server_cuts_calls_in_flight_and_leaves_no_hold",)
    ),
]

USAGE = {"prompt_tokens": 15, "completion_tokens": 9}


async def test_a_client_that_disconnects_pays_the_reported_usage(server: Server, upstream: Upstream) -> None:
    async with new_user(server) as caller:
        with upstream.gate(caller.marker):
            call = await _in_flight(caller, upstream)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert (await caller.charges())[0]["state"] == "dispatched"
        async with asyncio.timeout(TEST_DEADLINE_S):
            while (charge := (await caller.charges())[0])["state"] == "dispatched":
                await asyncio.sleep(0.05)
        assert (charge["state"], charge["basis"], charge["cost"]) == ("settled", "provider", 24)
        quota = await caller.quota()
        assert (quota["used"], quota["reserved"]) == (24, 0)
    assert len(upstream.requests(caller.marker)) == 1


async def test_on_sigterm_the_server_finishes_the_calls_in_flight(
    make_server: Callable[..., Server], database_url: str, upstream: Upstream
) -> None:
    server = make_server(database_url, OPENAI_BASE_URL=upstream.base_url).start()
    async with new_user(server) as caller:
        call = await _in_flight(caller, upstream)
        stopping = asyncio.create_task(asyncio.to_thread(server.stop))
        await _wait_until_connections_are_refused(server)
        upstream.open(caller.marker)
        assert (await call).body["cost"] == 24
        await stopping
    await _assert_settled(server, basis="provider")


async def test_after_the_grace_period_the_server_cuts_calls_in_flight_and_leaves_no_hold(
    make_server: Callable[..., Server], database_url: str, upstream: Upstream
) -> None:
    server = make_server(database_url, OPENAI_BASE_URL=upstream.base_url).start(TOLLKEEPER_GRACE_SECONDS="1")
    async with new_user(server) as caller:
        call = await _in_flight(caller, upstream)
        await asyncio.to_thread(server.stop)
        assert (await call).status == 503
    await _assert_settled(server, basis="unknown")


async def _in_flight(caller: ApiUser, upstream: Upstream) -> asyncio.Task[Reply]:
    """Start a call, and wait until it waits at its gate in the upstream."""
    prompt = scripted(caller.marker, gate=caller.marker, usage=USAGE)
    call = asyncio.create_task(caller.query(prompt, max_tokens=50))
    async with asyncio.timeout(TEST_DEADLINE_S):
        while not upstream.waiting(caller.marker):
            await asyncio.sleep(0.02)
    return call


async def _wait_until_connections_are_refused(server: Server) -> None:
    async with asyncio.timeout(TEST_DEADLINE_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            except ConnectionRefusedError:
                return
            writer.close()
            await asyncio.sleep(0.02)


async def _assert_settled(server: Server, basis: str) -> None:
    await assert_ledger_is_consistent(server.database_url)
    (charge,) = await charges_in(server.database_url)
    assert (charge.state, charge.basis) == ("settled", basis)
    assert charge.cost_tokens > 0
