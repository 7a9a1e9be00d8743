"""WS /ai/ws: many turns on one connection. Each turn is charged once, however it ends."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user, set_limit
from journeys.support.websocket import Turn, authenticated_websocket
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S
from tollkeeper.providers import tokenizer

pytestmark = pytest.mark.prove_only_on_postgres(
    but=(
        "test_a_turn_is_streamed_in_deltas_and_settled_before_its_final_frame",
        "test_a_cancelled_turn_costs_its_input_and_what_was_received",
        "test_a_repeated_turn_with_its_key_is_replayed_and_costs_nothing",
        "test_a_session_continues_from_turn_to_turn",
    )
)

USAGE = {"input": 15, "output": 9}
WORDS = ["one ", "two ", "three ", "four"]


async def test_a_turn_is_streamed_in_deltas_and_settled_before_its_final_frame(
    server: Server, upstream: Upstream
) -> None:
    async with new_user(server, limit=10_000) as caller, authenticated_websocket(server, caller) as connection:
        turn = await connection.run_turn(scripted(caller.marker, chunks=WORDS, usage=USAGE), id="first", max_tokens=50)
        (charge,) = await caller.charges()
    assert turn.text == "one two three four"
    assert [delta["sequence"] for delta in turn.deltas] == list(range(len(turn.deltas)))
    assert {(delta["id"], delta["is_final"]) for delta in turn.deltas} == {("first", False)}
    last = turn.last
    assert (last["type"], last["id"], last["is_final"], last["finish_reason"]) == ("final", "first", True, "stop")
    assert (last["cost"], last["usage"]["input_tokens"], last["usage"]["output_tokens"]) == (24, 15, 9)
    assert (last["quota"]["used"], last["quota"]["reserved"], last["quota"]["remaining"]) == (24, 0, 9_976)
    assert (charge["id"], charge["surface"], charge["state"]) == (last["query_id"], "ws", "settled")
    (requested,) = upstream.requests(caller.marker)
    assert (requested["body"]["stream"], requested["body"]["max_tokens"]) == (True, 50)


async def test_two_turns_are_two_charges(server: Server, upstream: Upstream) -> None:
    async with new_user(server) as caller, authenticated_websocket(server, caller) as connection:
        turns = [await connection.run_turn(scripted(caller.marker, usage=USAGE), id=str(number)) for number in range(2)]
        charges = await caller.charges()
        quota = await caller.quota()
    assert [turn.last["id"] for turn in turns] == ["0", "1"]
    assert [charge["id"] for charge in reversed(charges)] == [turn.last["query_id"] for turn in turns]
    assert (quota["used"], quota["reserved"]) == (48, 0)
    assert len(upstream.requests(caller.marker)) == 2


async def test_a_second_turn_is_refused_while_one_runs_and_the_first_goes_on(
    server: Server, upstream: Upstream
) -> None:
    async with new_user(server) as caller, authenticated_websocket(server, caller) as connection:
        with upstream.gate(caller.marker):
            await connection.send(
                "query", id="runs", prompt=scripted(caller.marker, chunks=WORDS, gate_after=[1, caller.marker])
            )
            text = await connection.receive_words(1)
            await connection.send("query", id="too early", prompt=caller.marker)
            refused = await connection.receive()
        turn = await connection.receive_turn()
        charges = await caller.charges()
    assert (refused["type"], refused["id"], refused["code"]) == ("error", "too early", "turn_in_progress")
    assert (text + turn.text, turn.last["id"]) == ("one two three four", "runs")
    assert len(charges) == len(upstream.requests(caller.marker)) == 1


@pytest.mark.parametrize("named", [{}, {"id": "mine"}])
async def test_a_cancelled_turn_costs_its_input_and_what_was_received(
    server: Server, upstream: Upstream, named: dict[str, str]
) -> None:
    async with new_user(server) as caller, authenticated_websocket(server, caller) as connection:
        prompt = scripted(caller.marker, chunks=WORDS, gate_after=[2, caller.marker])
        with upstream.gate(caller.marker):
            await connection.send("query", id="mine", prompt=prompt, max_tokens=50)
            text = await connection.receive_words(2)
            await connection.send("cancel", **named)
            turn = await connection.receive_turn()
            (sent,) = upstream.sent(caller.marker)
        (charge,) = await caller.charges()
        after = await connection.run_turn(scripted(caller.marker, usage=USAGE))
    assert (text, turn.deltas) == ("one two ", [])
    assert (turn.last["type"], turn.last["id"], turn.last["finish_reason"]) == ("final", "mine", "cancelled")
    await _assert_paid_input_and(text, charge, prompt)
    assert charge["cost"] == turn.last["cost"]
    assert (sent.cancelled, sent.chunks) == (True, 2)
    assert after.last["cost"] == 24


@pytest.mark.parametrize("own_id", [{"id": "mine"}, {}])
async def test_a_cancel_for_another_turn_does_not_cancel_the_running_one(
    server: Server, upstream: Upstream, own_id: dict[str, str]
) -> None:
    async with new_user(server) as caller, authenticated_websocket(server, caller) as connection:
        with upstream.gate(caller.marker):
            prompt = scripted(caller.marker, chunks=WORDS, usage=USAGE, gate_after=[2, caller.marker])
            await connection.send("query", prompt=prompt, **own_id)
            text = await connection.receive_words(2)
            await connection.send("cancel", id="another")
            await connection.send("query", prompt="x")
            assert (await connection.receive())["code"] == "turn_in_progress", "the cancel before it was processed"
        turn = await connection.receive_turn()
    assert (text + turn.text, turn.last["finish_reason"]) == ("one two three four", "stop")


async def test_a_cancel_before_the_first_word_costs_the_input(server: Server, upstream: Upstream) -> None:
    async with new_user(server) as caller, authenticated_websocket(server, caller) as connection:
        prompt = scripted(caller.marker, gate=caller.marker)
        with upstream.gate(caller.marker):
            await connection.send("query", prompt=prompt, max_tokens=50)
            await _wait_until(lambda: upstream.waiting(caller.marker) == 1)
            await connection.send("cancel")
            turn = await connection.receive_turn()
        (charge,) = await caller.charges()
    assert turn.last["finish_reason"] == "cancelled"
    await _assert_paid_input_and("", charge, prompt)


async def test_a_cancel_without_a_turn_changes_nothing(server: Server) -> None:
    async with new_user(server) as caller, authenticated_websocket(server, caller) as connection:
        await connection.send("cancel")
        first = await connection.run_turn(scripted(caller.marker, usage=USAGE))
        await connection.send("cancel")
        second = await connection.run_turn(scripted(caller.marker, usage=USAGE))
    assert [first.last["finish_reason"], second.last["finish_reason"]] == ["stop", "stop"]


async def test_a_client_that_disconnects_within_a_turn_pays_input_and_what_was_received(
    server: Server, upstream: Upstream
) -> None:
    async with new_user(server) as caller:
        prompt = scripted(caller.marker, chunks=WORDS, gate_after=[3, caller.marker])
        with upstream.gate(caller.marker):
            async with authenticated_websocket(server, caller) as connection:
                await connection.send("query", prompt=prompt, max_tokens=50)
                text = await connection.receive_words(3)
                connection.raw.transport.abort()
            await _wait_until(lambda: upstream.sent(caller.marker)[0].cancelled)
            charge = await _wait_until_closed(caller)
    await _assert_paid_input_and(text, charge, prompt)


async def test_a_provider_that_breaks_within_a_turn_ends_the_turn_and_not_the_connection(
    server: Server, upstream: Upstream
) -> None:
    async with new_user(server) as caller, authenticated_websocket(server, caller) as connection:
        prompt = scripted(caller.marker, chunks=WORDS, reset_after=2)
        turn = await connection.run_turn(prompt, id="breaks", max_tokens=50)
        (charge,) = await caller.charges()
        after = await connection.run_turn(scripted(caller.marker, usage=USAGE))
    assert (turn.last["type"], turn.last["id"], turn.last["code"]) == ("error", "breaks", "provider_error")
    assert (turn.last["query_id"], "retry_after" in turn.last) == (charge["id"], False)
    assert len(upstream.requests(caller.marker)) == 2
    await _assert_paid_input_and(turn.text, charge, prompt)
    assert after.last["cost"] == 24


async def test_a_provider_that_refuses_a_turn_costs_nothing(server: Server) -> None:
    async with new_user(server) as caller, authenticated_websocket(server, caller) as connection:
        turn = await connection.run_turn(scripted(caller.marker, status=400), id="refused")
        (charge,) = await caller.charges()
        after = await connection.run_turn(scripted(caller.marker, usage=USAGE))
    assert (turn.deltas, turn.last["type"], turn.last["code"]) == ([], "error", "provider_rejected")
    assert turn.last["query_id"] == charge["id"]
    assert "SECRET" not in str(turn.last)
    assert (charge["state"], charge["cost"]) == ("released", 0)
    assert after.last["cost"] == 24


async def test_the_retry_after_of_the_provider_is_in_the_error_frame(server: Server) -> None:
    async with new_user(server) as caller, authenticated_websocket(server, caller) as connection:
        turn = await connection.run_turn(scripted(caller.marker, status=429, headers={"Retry-After": "7"}))
        (charge,) = await caller.charges()
    assert (turn.last["code"], turn.last["retry_after"]) == ("provider_rate_limited", 7)
    assert (turn.last["query_id"], charge["state"]) == (charge["id"], "released")


async def test_a_turn_beyond_the_quota_is_refused_and_the_connection_stays_open(
    server: Server, upstream: Upstream
) -> None:
    async with new_user(server, limit=10) as caller, authenticated_websocket(server, caller) as connection:
        refused = await connection.run_turn(caller.marker, id="too dear", max_tokens=50)
        assert upstream.requests(caller.marker) == []
        await set_limit(server, caller.principal, 10_000)
        after = await connection.run_turn(scripted(caller.marker, usage=USAGE))
    last = refused.last
    assert (last["type"], last["id"], last["code"], last["limit"]) == ("error", "too dear", "quota_exceeded", 10)
    assert last["needed"] > 10
    assert "query_id" not in last, "nothing was reserved"
    assert after.last["cost"] == 24


async def test_a_disabled_user_is_disconnected_at_the_next_turn(server: Server, upstream: Upstream) -> None:
    async with new_user(server) as caller, authenticated_websocket(server, caller) as connection:
        await connection.run_turn(scripted(caller.marker, usage=USAGE))
        await asyncio.to_thread(server.command, "user", "disable", caller.email)
        await connection.send("query", prompt=caller.marker)
        assert await connection.wait_closed() == 4401
    assert len(upstream.requests(caller.marker)) == 1


async def test_a_repeated_turn_with_its_key_is_replayed_and_costs_nothing(server: Server, upstream: Upstream) -> None:
    """With the same frames, except for the id of the turn."""
    async with new_user(server) as caller:
        turn: dict[str, Any] = {"prompt": scripted(caller.marker, chunks=WORDS, usage=USAGE), "idempotency_key": "key"}
        async with authenticated_websocket(server, caller) as connection:
            first, again = await connection.run_turn(id='"1\\', **turn), await connection.run_turn(id='2",', **turn)
        async with authenticated_websocket(server, caller) as connection:
            elsewhere = await connection.run_turn(**turn)
            other = await connection.run_turn(caller.marker, idempotency_key="key")
        quota = await caller.quota()
    assert first.text == "one two three four"
    assert (_ids(first), _ids(again), _ids(elsewhere)) == ({'"1\\'}, {'2",'}, {None})
    assert _without_ids(first) == _without_ids(again) == _without_ids(elsewhere)
    assert (other.last["type"], other.last["code"]) == ("error", "idempotency_key_reused")
    assert (quota["used"], quota["reserved"]) == (24, 0)
    assert len(upstream.requests(caller.marker)) == 1


async def test_a_turn_whose_key_is_in_flight_elsewhere_is_refused_at_once(server: Server, upstream: Upstream) -> None:
    async with (
        new_user(server) as caller,
        authenticated_websocket(server, caller) as here,
        authenticated_websocket(server, caller) as there,
    ):
        turn: dict[str, Any] = {
            "prompt": scripted(caller.marker, chunks=WORDS, gate_after=[1, caller.marker]),
            "idempotency_key": "key",
        }
        with upstream.gate(caller.marker):
            await here.send("query", **turn)
            await here.receive_words(1)
            refused = await there.run_turn(**turn)
        await here.receive_turn()
    assert (refused.last["code"], refused.last["retry_after"]) == ("idempotency_in_flight", 1)
    assert "query_id" not in refused.last, "the charge is another call's"
    assert len(upstream.requests(caller.marker)) == 1


async def test_a_session_continues_from_turn_to_turn(server: Server, upstream: Upstream) -> None:
    async with new_user(server) as caller:
        async with authenticated_websocket(server, caller) as connection:
            first = scripted(caller.marker, answer="The first answer.")
            turn = await connection.run_turn(first, session_id="talk", system_prompt="Be brief.")
            await connection.run_turn(f"{caller.marker} goes on", session_id="talk")
        async with authenticated_websocket(server, caller) as connection:
            await connection.run_turn(f"{caller.marker} apart")
    requested = [
        [(one["role"], one["content"]) for one in request["body"]["messages"]]
        for request in upstream.requests(caller.marker)
    ]
    assert turn.last["session_id"] == "talk"
    assert requested[0] == [("system", "Be brief."), ("user", first)]
    assert requested[1] == [*requested[0], ("assistant", "The first answer."), ("user", f"{caller.marker} goes on")]
    assert requested[2] == [("user", f"{caller.marker} apart")]


def _ids(turn: Turn) -> set[str | None]:
    return {frame["id"] for frame in (*turn.deltas, turn.last)}


def _without_ids(turn: Turn) -> list[dict[str, Any]]:
    return [frame | {"id": None} for frame in (*turn.deltas, turn.last)]


async def _assert_paid_input_and(text: str, charge: dict[str, Any], prompt: str) -> None:
    """The charge is for the prompt, as one message, and for the text received."""
    assert (charge["state"], charge["basis"]) == ("settled", "counted")
    assert charge["output_tokens"] == await tokenizer.count(tokenizer.DEFAULT_ENCODING, (text,))
    words = await tokenizer.count(charge["model"], (prompt,))
    assert words <= charge["input_tokens"] <= words + 10
    assert charge["cost"] == charge["input_tokens"] + charge["output_tokens"]


async def _wait_until_closed(caller: ApiUser) -> dict[str, Any]:
    """Wait until the only charge is closed, and return it."""
    async with asyncio.timeout(TEST_DEADLINE_S):
        while (charges := await caller.charges())[0]["state"] == "dispatched":
            await asyncio.sleep(0.02)
    (charge,) = charges
    return charge


async def _wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TEST_DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.02)
