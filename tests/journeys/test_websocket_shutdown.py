"""WS /ai/ws on a server that is told to stop: what becomes of the turn that runs, and of connections without one."""

import asyncio
from collections.abc import Callable

import pytest

from journeys.support.ledger_checks import assert_books_are_right, charges_in
from journeys.support.server import Server
from journeys.support.users import person
from journeys.support.websocket import calling
from journeys.upstream.handle import Upstream, scripted
from tollkeeper.providers import tokenizer

pytestmark = pytest.mark.exhaustive_on_postgres

USAGE = {"input": 15, "output": 9}
GOING_AWAY = 1012
WORDS = ["one ", "two ", "three ", "four"]


async def test_told_to_stop_the_server_lets_the_turn_that_runs_come_to_its_end(
    make_server: Callable[..., Server], database_url: str, upstream: Upstream
) -> None:
    """Connections on which no turn runs are closed at once."""
    server = make_server(database_url, OPENAI_BASE_URL=upstream.base_url).start()
    async with person(server) as caller, calling(server, caller) as idle, calling(server, caller) as call:
        prompt = scripted(caller.marker, chunks=WORDS, usage=USAGE, gate_after=[2, caller.marker])
        with upstream.gate(caller.marker):
            await call.say("query", prompt=prompt, max_tokens=50)
            said = await call.hear_deltas(2)
            stopping = asyncio.create_task(asyncio.to_thread(server.stop))
            assert await idle.closed_with() == GOING_AWAY
        heard = await call.hear_turn()
        assert await call.closed_with() == GOING_AWAY
        await stopping
    assert (said + heard.text, heard.last["type"], heard.last["cost"]) == ("one two three four", "final", 24)
    await assert_books_are_right(server.database_url)
    (charge,) = await charges_in(server.database_url)
    assert (charge.state, charge.basis, charge.cost_tokens) == ("settled", "provider", 24)


async def test_who_hangs_up_on_a_server_that_is_told_to_stop_keeps_it_no_longer(
    make_server: Callable[..., Server], sqlite_url: str, upstream: Upstream
) -> None:
    server = make_server(sqlite_url, OPENAI_BASE_URL=upstream.base_url).start()
    async with person(server) as caller, calling(server, caller) as idle, calling(server, caller) as call:
        with upstream.gate(caller.marker):
            await call.say("query", prompt=scripted(caller.marker, chunks=WORDS, gate_after=[2, caller.marker]))
            await call.hear_deltas(2)
            stopping = asyncio.create_task(asyncio.to_thread(server.stop))
            assert await idle.closed_with() == GOING_AWAY
            call.connection.transport.abort()
            await stopping
    await assert_books_are_right(server.database_url)
    (charge,) = await charges_in(server.database_url)
    assert (charge.state, charge.basis) == ("settled", "counted")


async def test_past_the_grace_period_the_turn_that_runs_is_cut_and_settled(
    make_server: Callable[..., Server], database_url: str, upstream: Upstream
) -> None:
    server = make_server(database_url, OPENAI_BASE_URL=upstream.base_url).start(
        ("journeys.support.serve_with_short_grace", "serve")
    )
    async with person(server) as caller:
        prompt = scripted(caller.marker, chunks=WORDS, gate_after=[2, caller.marker])
        with upstream.gate(caller.marker):
            async with calling(server, caller) as call:
                await call.say("query", id="cut", prompt=prompt, max_tokens=50)
                said = await call.hear_deltas(2)
                await asyncio.to_thread(server.stop)
                told = await call.hear()
                assert await call.closed_with() == GOING_AWAY
    assert (told["type"], told["id"], told["code"]) == ("error", "cut", "shutting_down")
    await assert_books_are_right(server.database_url)
    (charge,) = await charges_in(server.database_url)
    assert (charge.state, charge.basis) == ("settled", "counted")
    assert told["query_id"] == charge.id
    assert charge.output_tokens == await tokenizer.count(tokenizer.DEFAULT_ENCODING, (said,))
