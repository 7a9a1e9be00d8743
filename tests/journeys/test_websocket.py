"""WS /ai/ws: many turns on one connection. Each is charged once, however it ends."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from journeys.support.server import Server
from journeys.support.users import Person, person, set_limit
from journeys.support.websocket import Heard, calling
from journeys.upstream.handle import Upstream, scripted
from patience import PATIENCE_S
from tollkeeper.providers import tokenizer

USAGE = {"input": 15, "output": 9}
WORDS = ["one ", "two ", "three ", "four"]


async def test_a_turn_comes_in_deltas_and_is_settled_before_its_final_frame(server: Server, upstream: Upstream) -> None:
    async with person(server, limit=10_000) as caller, calling(server, caller) as call:
        heard = await call.turn(scripted(caller.marker, chunks=WORDS, usage=USAGE), id="first", max_tokens=50)
        (charge,) = await caller.charges()
    assert heard.text == "one two three four"
    assert [delta["sequence"] for delta in heard.deltas] == [0, 1, 2, 3]
    assert {(delta["id"], delta["is_final"]) for delta in heard.deltas} == {("first", False)}
    last = heard.last
    assert (last["type"], last["id"], last["is_final"], last["finish_reason"]) == ("final", "first", True, "stop")
    assert (last["cost"], last["usage"]["input_tokens"], last["usage"]["output_tokens"]) == (24, 15, 9)
    assert (last["quota"]["used"], last["quota"]["reserved"], last["quota"]["remaining"]) == (24, 0, 9_976)
    assert (charge["id"], charge["surface"], charge["state"]) == (last["query_id"], "ws", "settled")
    (asked,) = upstream.seen(caller.marker)
    assert (asked["body"]["stream"], asked["body"]["max_tokens"]) == (True, 50)


async def test_two_turns_are_two_charges(server: Server, upstream: Upstream) -> None:
    async with person(server) as caller, calling(server, caller) as call:
        turns = [await call.turn(scripted(caller.marker, usage=USAGE), id=str(number)) for number in range(2)]
        charges = await caller.charges()
        quota = await caller.quota()
    assert [turn.last["id"] for turn in turns] == ["0", "1"]
    assert [charge["id"] for charge in reversed(charges)] == [turn.last["query_id"] for turn in turns]
    assert (quota["used"], quota["reserved"]) == (48, 0)
    assert len(upstream.seen(caller.marker)) == 2


async def test_a_second_turn_is_refused_while_one_runs_and_the_first_goes_on(
    server: Server, upstream: Upstream
) -> None:
    async with person(server) as caller, calling(server, caller) as call:
        with upstream.gate(caller.marker):
            await call.say(
                "query", id="runs", prompt=scripted(caller.marker, chunks=WORDS, gate_after=[1, caller.marker])
            )
            said = await call.hear_deltas(1)
            await call.say("query", id="too early", prompt=caller.marker)
            refused = await call.hear()
        heard = await call.hear_turn()
        charges = await caller.charges()
    assert (refused["type"], refused["id"], refused["code"]) == ("error", "too early", "turn_in_progress")
    assert (said + heard.text, heard.last["id"]) == ("one two three four", "runs")
    assert len(charges) == len(upstream.seen(caller.marker)) == 1


@pytest.mark.parametrize("named", [{}, {"id": "mine"}])
async def test_cancelled_a_turn_costs_its_input_and_what_was_received(
    server: Server, upstream: Upstream, named: dict[str, str]
) -> None:
    async with person(server) as caller, calling(server, caller) as call:
        prompt = scripted(caller.marker, chunks=WORDS, gate_after=[2, caller.marker])
        with upstream.gate(caller.marker):
            await call.say("query", id="mine", prompt=prompt, max_tokens=50)
            said = await call.hear_deltas(2)
            await call.say("cancel", **named)
            heard = await call.hear_turn()
            (sent,) = upstream.sent(caller.marker)
        (charge,) = await caller.charges()
        after = await call.turn(scripted(caller.marker, usage=USAGE))
    assert (said, heard.deltas) == ("one two ", [])
    assert (heard.last["type"], heard.last["id"], heard.last["finish_reason"]) == ("final", "mine", "cancelled")
    await _assert_paid_input_and(said, charge, prompt)
    assert charge["cost"] == heard.last["cost"]
    assert (sent.cancelled, sent.chunks) == (True, 2)
    assert after.last["cost"] == 24


@pytest.mark.parametrize("own", [{"id": "mine"}, {}])
async def test_a_cancel_for_another_turn_leaves_the_one_that_runs_alone(
    server: Server, upstream: Upstream, own: dict[str, str]
) -> None:
    async with person(server) as caller, calling(server, caller) as call:
        with upstream.gate(caller.marker):
            prompt = scripted(caller.marker, chunks=WORDS, usage=USAGE, gate_after=[2, caller.marker])
            await call.say("query", prompt=prompt, **own)
            said = await call.hear_deltas(2)
            await call.say("cancel", id="another")
            await call.say("query", prompt="x")
            assert (await call.hear())["code"] == "turn_in_progress", "the cancel before it was heard"
        heard = await call.hear_turn()
    assert (said + heard.text, heard.last["finish_reason"]) == ("one two three four", "stop")


async def test_a_cancel_before_the_first_word_costs_the_input(server: Server, upstream: Upstream) -> None:
    async with person(server) as caller, calling(server, caller) as call:
        prompt = scripted(caller.marker, gate=caller.marker)
        with upstream.gate(caller.marker):
            await call.say("query", prompt=prompt, max_tokens=50)
            await _until(lambda: upstream.waiting(caller.marker) == 1)
            await call.say("cancel")
            heard = await call.hear_turn()
        (charge,) = await caller.charges()
    assert heard.last["finish_reason"] == "cancelled"
    await _assert_paid_input_and("", charge, prompt)


async def test_a_cancel_without_a_turn_changes_nothing(server: Server) -> None:
    async with person(server) as caller, calling(server, caller) as call:
        await call.say("cancel")
        first = await call.turn(scripted(caller.marker, usage=USAGE))
        await call.say("cancel")
        second = await call.turn(scripted(caller.marker, usage=USAGE))
    assert [first.last["finish_reason"], second.last["finish_reason"]] == ["stop", "stop"]


async def test_who_hangs_up_within_a_turn_pays_input_and_what_was_received(server: Server, upstream: Upstream) -> None:
    async with person(server) as caller:
        prompt = scripted(caller.marker, chunks=WORDS, gate_after=[3, caller.marker])
        with upstream.gate(caller.marker):
            async with calling(server, caller) as call:
                await call.say("query", prompt=prompt, max_tokens=50)
                said = await call.hear_deltas(3)
                call.connection.transport.abort()
            await _until(lambda: upstream.sent(caller.marker)[0].cancelled)
            charge = await _closed(caller)
    await _assert_paid_input_and(said, charge, prompt)


async def test_a_provider_that_breaks_within_a_turn_ends_the_turn_and_not_the_connection(
    server: Server, upstream: Upstream
) -> None:
    async with person(server) as caller, calling(server, caller) as call:
        prompt = scripted(caller.marker, chunks=WORDS, reset_after=2)
        heard = await call.turn(prompt, id="breaks", max_tokens=50)
        (charge,) = await caller.charges()
        after = await call.turn(scripted(caller.marker, usage=USAGE))
    assert (heard.last["type"], heard.last["id"], heard.last["code"]) == ("error", "breaks", "provider_error")
    assert (heard.last["query_id"], "retry_after" in heard.last) == (charge["id"], False)
    assert len(upstream.seen(caller.marker)) == 2
    await _assert_paid_input_and(heard.text, charge, prompt)
    assert after.last["cost"] == 24


async def test_a_provider_that_refuses_a_turn_costs_nothing(server: Server) -> None:
    async with person(server) as caller, calling(server, caller) as call:
        heard = await call.turn(scripted(caller.marker, status=400), id="refused")
        (charge,) = await caller.charges()
        after = await call.turn(scripted(caller.marker, usage=USAGE))
    assert (heard.deltas, heard.last["type"], heard.last["code"]) == ([], "error", "provider_rejected")
    assert heard.last["query_id"] == charge["id"]
    assert "SECRET" not in str(heard.last)
    assert (charge["state"], charge["cost"]) == ("released", 0)
    assert after.last["cost"] == 24


async def test_a_wait_that_the_provider_asks_for_is_said_in_the_error_frame(server: Server) -> None:
    async with person(server) as caller, calling(server, caller) as call:
        heard = await call.turn(scripted(caller.marker, status=429, headers={"Retry-After": "7"}))
        (charge,) = await caller.charges()
    assert (heard.last["code"], heard.last["retry_after"]) == ("provider_rate_limited", 7)
    assert (heard.last["query_id"], charge["state"]) == (charge["id"], "released")


async def test_a_turn_that_does_not_fit_is_refused_and_the_connection_lives(server: Server, upstream: Upstream) -> None:
    async with person(server, limit=10) as caller, calling(server, caller) as call:
        refused = await call.turn(caller.marker, id="too dear", max_tokens=50)
        assert upstream.seen(caller.marker) == []
        await set_limit(server, caller.principal, 10_000)
        after = await call.turn(scripted(caller.marker, usage=USAGE))
    last = refused.last
    assert (last["type"], last["id"], last["code"], last["limit"]) == ("error", "too dear", "quota_exceeded", 10)
    assert last["needed"] > 10
    assert "query_id" not in last, "nothing was reserved"
    assert after.last["cost"] == 24


async def test_a_user_who_is_disabled_is_shut_out_before_the_next_turn(server: Server, upstream: Upstream) -> None:
    async with person(server) as caller, calling(server, caller) as call:
        await call.turn(scripted(caller.marker, usage=USAGE))
        await asyncio.to_thread(server.command, "user", "disable", caller.email)
        await call.say("query", prompt=caller.marker)
        assert await call.closed_with() == 4401
    assert len(upstream.seen(caller.marker)) == 1


async def test_a_turn_that_comes_again_with_its_key_is_said_again_and_costs_nothing(
    server: Server, upstream: Upstream
) -> None:
    """Word for word, but under the id that it comes with."""
    async with person(server) as caller:
        turn: dict[str, Any] = {"prompt": scripted(caller.marker, chunks=WORDS, usage=USAGE), "idempotency_key": "key"}
        async with calling(server, caller) as call:
            first, again = await call.turn(id='"1\\', **turn), await call.turn(id='2",', **turn)
        async with calling(server, caller) as call:
            elsewhere = await call.turn(**turn)
            other = await call.turn(caller.marker, idempotency_key="key")
        quota = await caller.quota()
    assert first.text == "one two three four"
    assert (_ids(first), _ids(again), _ids(elsewhere)) == ({'"1\\'}, {'2",'}, {None})
    assert _but_ids(first) == _but_ids(again) == _but_ids(elsewhere)
    assert (other.last["type"], other.last["code"]) == ("error", "idempotency_key_reused")
    assert (quota["used"], quota["reserved"]) == (24, 0)
    assert len(upstream.seen(caller.marker)) == 1


async def test_a_turn_whose_key_is_at_work_elsewhere_waits_for_nobody(server: Server, upstream: Upstream) -> None:
    async with person(server) as caller, calling(server, caller) as here, calling(server, caller) as there:
        turn: dict[str, Any] = {
            "prompt": scripted(caller.marker, chunks=WORDS, gate_after=[1, caller.marker]),
            "idempotency_key": "key",
        }
        with upstream.gate(caller.marker):
            await here.say("query", **turn)
            await here.hear_deltas(1)
            refused = await there.turn(**turn)
        await here.hear_turn()
    assert (refused.last["code"], refused.last["retry_after"]) == ("idempotency_in_flight", 1)
    assert "query_id" not in refused.last, "the charge is another call's"
    assert len(upstream.seen(caller.marker)) == 1


async def test_a_session_goes_on_from_turn_to_turn(server: Server, upstream: Upstream) -> None:
    async with person(server) as caller:
        async with calling(server, caller) as call:
            first = scripted(caller.marker, answer="The first answer.")
            heard = await call.turn(first, session_id="talk", system_prompt="Be brief.")
            await call.turn(f"{caller.marker} goes on", session_id="talk")
        async with calling(server, caller) as call:
            await call.turn(f"{caller.marker} apart")
    asked = [
        [(one["role"], one["content"]) for one in seen["body"]["messages"]] for seen in upstream.seen(caller.marker)
    ]
    assert heard.last["session_id"] == "talk"
    assert asked[0] == [("system", "Be brief."), ("user", first)]
    assert asked[1] == [*asked[0], ("assistant", "The first answer."), ("user", f"{caller.marker} goes on")]
    assert asked[2] == [("user", f"{caller.marker} apart")]


def _ids(heard: Heard) -> set[str | None]:
    return {frame["id"] for frame in (*heard.deltas, heard.last)}


def _but_ids(heard: Heard) -> list[dict[str, Any]]:
    return [frame | {"id": None} for frame in (*heard.deltas, heard.last)]


async def _assert_paid_input_and(said: str, charge: dict[str, Any], prompt: str) -> None:
    """The charge is for the prompt, in one message, and for what was said."""
    assert (charge["state"], charge["basis"]) == ("settled", "counted")
    assert charge["output_tokens"] == await tokenizer.count(tokenizer.DEFAULT_ENCODING, (said,))
    words = await tokenizer.count(charge["model"], (prompt,))
    assert words <= charge["input_tokens"] <= words + 10
    assert charge["cost"] == charge["input_tokens"] + charge["output_tokens"]


async def _closed(caller: Person) -> dict[str, Any]:
    """The only charge, when it is closed."""
    async with asyncio.timeout(PATIENCE_S):
        while (charges := await caller.charges())[0]["state"] == "dispatched":
            await asyncio.sleep(0.02)
    (charge,) = charges
    return charge


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            await asyncio.sleep(0.02)
