"""WS /ai/ws on a server that is stopping: running turns, and connections without one."""

import asyncio
from collections.abc import Callable

import pytest

from journeys.support.ledger_checks import assert_ledger_is_consistent, charges_in
from journeys.support.server import SERVE_WITHOUT_WAIT, Server
from journeys.support.users import new_user
from journeys.support.websocket import authenticated_websocket
from journeys.upstream.handle import Upstream, scripted
from tollkeeper.providers import tokenizer

pytestmark = [
    pytest.mark.exhaustive_on_postgres,
    pytest.mark.prove_only_on_postgres(but=("test_a_turn_that_ends_after_the_ledger_is_booked_by_the_next_start",)),
]

USAGE = {"input": 15, "output": 9}
GOING_AWAY = 1012
WORDS = ["one ", "two ", "three ", "four"]


async def test_on_sigterm_the_server_finishes_the_running_turn(
    make_server: Callable[..., Server], database_url: str, upstream: Upstream
) -> None:
    """Connections without a running turn are closed at once."""
    server = make_server(database_url, OPENAI_BASE_URL=upstream.base_url).start()
    async with (
        new_user(server) as caller,
        authenticated_websocket(server, caller) as idle,
        authenticated_websocket(server, caller) as connection,
    ):
        prompt = scripted(caller.marker, chunks=WORDS, usage=USAGE, gate_after=[2, caller.marker])
        with upstream.gate(caller.marker):
            await connection.send("query", prompt=prompt, max_tokens=50)
            text = await connection.receive_words(2)
            stopping = asyncio.create_task(asyncio.to_thread(server.stop))
            assert await idle.wait_closed() == GOING_AWAY
        turn = await connection.receive_turn()
        assert await connection.wait_closed() == GOING_AWAY
        await stopping
    assert (text + turn.text, turn.last["type"], turn.last["cost"]) == ("one two three four", "final", 24)
    await assert_ledger_is_consistent(server.database_url)
    (charge,) = await charges_in(server.database_url)
    assert (charge.state, charge.basis, charge.cost_tokens) == ("settled", "provider", 24)


async def test_a_client_that_disconnects_does_not_delay_the_shutdown(
    make_server: Callable[..., Server], sqlite_url: str, upstream: Upstream
) -> None:
    server = make_server(sqlite_url, OPENAI_BASE_URL=upstream.base_url).start()
    async with (
        new_user(server) as caller,
        authenticated_websocket(server, caller) as idle,
        authenticated_websocket(server, caller) as connection,
    ):
        with upstream.gate(caller.marker):
            await connection.send("query", prompt=scripted(caller.marker, chunks=WORDS, gate_after=[2, caller.marker]))
            await connection.receive_words(2)
            stopping = asyncio.create_task(asyncio.to_thread(server.stop))
            assert await idle.wait_closed() == GOING_AWAY
            connection.raw.transport.abort()
            await stopping
    await assert_ledger_is_consistent(server.database_url)
    (charge,) = await charges_in(server.database_url)
    assert (charge.state, charge.basis) == ("settled", "counted")


async def test_a_turn_that_ends_after_the_ledger_is_booked_by_the_next_start(
    make_server: Callable[..., Server], database_url: str, upstream: Upstream
) -> None:
    server = make_server(database_url, OPENAI_BASE_URL=upstream.base_url).start(
        SERVE_WITHOUT_WAIT, TOLLKEEPER_GRACE_SECONDS="1"
    )
    async with new_user(server) as caller:
        prompt = scripted(caller.marker, chunks=WORDS, gate_after=[2, caller.marker])
        with upstream.gate(caller.marker):
            async with authenticated_websocket(server, caller) as connection:
                await connection.send("query", id="cut", prompt=prompt, max_tokens=50)
                await connection.receive_words(2)
                await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)
    await asyncio.to_thread(server.stop)
    await assert_ledger_is_consistent(server.database_url)
    (charge,) = await charges_in(server.database_url)
    assert (charge.state, charge.basis in ("counted", "unknown")) == ("settled", True)


async def test_after_the_grace_period_the_running_turn_is_cut_and_settled(
    make_server: Callable[..., Server], database_url: str, upstream: Upstream
) -> None:
    server = make_server(database_url, OPENAI_BASE_URL=upstream.base_url).start(TOLLKEEPER_GRACE_SECONDS="1")
    async with new_user(server) as caller:
        prompt = scripted(caller.marker, chunks=WORDS, gate_after=[2, caller.marker])
        with upstream.gate(caller.marker):
            async with authenticated_websocket(server, caller) as connection:
                await connection.send("query", id="cut", prompt=prompt, max_tokens=50)
                text = await connection.receive_words(2)
                await asyncio.to_thread(server.stop)
                error = await connection.receive()
                assert await connection.wait_closed() == GOING_AWAY
    assert (error["type"], error["id"], error["code"]) == ("error", "cut", "shutting_down")
    await assert_ledger_is_consistent(server.database_url)
    (charge,) = await charges_in(server.database_url)
    assert (charge.state, charge.basis) == ("settled", "counted")
    assert error["query_id"] == charge.id
    assert charge.output_tokens == await tokenizer.count(tokenizer.DEFAULT_ENCODING, (text,))
