"""`evaluate: true` where answers are streamed: the score is in the last event, and the pair is charged as elsewhere."""

import asyncio
import json
from typing import Any

import pytest

from journeys.support.client_formats import events_in
from journeys.support.judges import judged, rated
from journeys.support.live_changes import until
from journeys.support.provider_wires import CHAT, MESSAGES
from journeys.support.server import Server
from journeys.support.users import ApiUser
from journeys.support.websocket import authenticated_websocket
from journeys.upstream.handle import Upstream, scripted

WORDS = ["one ", "two ", "three ", "four"]


async def streamed(caller: ApiUser, path: str, document: dict[str, Any], **headers: str) -> dict[str, Any]:
    """The last event of a stream."""
    document = {"model": CHAT.model, "evaluate": True} | document
    async with caller.http.post(path, json=document, headers=caller.auth_headers | headers) as response:
        assert response.status == 200, await response.text()
        *_, last, done = events_in(await response.read())
        assert done.data == "[DONE]"
        event: dict[str, Any] = json.loads(last.data)
        return event


@pytest.mark.exhaustive_on_postgres
async def test_the_last_event_of_a_stream_has_the_score(all_wires_server: Server, upstream: Upstream) -> None:
    async with rated(all_wires_server) as caller, authenticated_websocket(all_wires_server, caller) as connection:
        prompt = judged(caller.marker, {"score": 64})
        turn = await connection.run_turn(prompt, model=CHAT.model, evaluate=True)
        chat = await caller.http.post(
            "/ai/chat",
            json={"message": prompt, "model": CHAT.model, "evaluate": True},
            headers=caller.auth_headers,
        )
        keyed = {"Idempotency-Key": "rated-once"}
        finals = [
            await streamed(caller, "/ai/stream", {"prompt": prompt}, **keyed),
            await streamed(caller, "/ai/chat", {"message": prompt, "stream": True}),
            turn.last,
            await chat.json(),
        ]
        for final in finals:
            assert (final["quality_score"], final["quality_score_reason"]) == (64, None), final
            assert (final["judge"]["model"], final["quota"]["reserved"]) == (MESSAGES.model, 0)
        again = await streamed(caller, "/ai/stream", {"prompt": prompt}, **keyed)
        assert again == finals[0]
        charges = {one["id"]: one for one in await caller.charges()}
        for final in finals:
            first, judge = charges[final["query_id"]], charges[final["judge"]["query_id"]]
            assert (first["cost"], judge["cost"]) == (final["cost"], final["judge"]["cost"])
            assert (judge["surface"], judge["basis"]) == ("evaluation", "provider")
        assert len(charges) == 2 * len(finals) + 1, "the repeated response is a charge of its own"
        assert len(upstream.requests(caller.marker)) == 2 * len(finals)


@pytest.mark.exhaustive_on_postgres
async def test_an_answer_that_its_client_leaves_is_not_rated(all_wires_server: Server, upstream: Upstream) -> None:
    async with rated(all_wires_server) as caller, authenticated_websocket(all_wires_server, caller) as connection:
        with upstream.gate(caller.marker):
            script = {CHAT.model: {"chunks": WORDS, "gate_after": [1, caller.marker]}}
            prompt = scripted(caller.marker, by_model=script)
            await connection.send("query", id="left", prompt=prompt, model=CHAT.model, evaluate=True)
            await connection.receive_words(1)
            await connection.send("cancel", id="left")
            last = (await connection.receive_turn()).last
            assert (last["finish_reason"], last["quality_score"]) == ("cancelled", None)
            assert (last["quality_score_reason"], last["judge"]) == ("cancelled", None)
            document = {"prompt": prompt, "model": CHAT.model, "evaluate": True}
            async with caller.http.post("/ai/stream", json=document, headers=caller.auth_headers) as response:
                await response.content.readany()
                response.close()

            async def are_closed() -> bool:
                return len(found := await caller.charges()) == 4 and not any(
                    one["state"] == "dispatched" for one in found
                )

            await until(are_closed)
        charges = await caller.charges()
        ends = {(one["surface"], one["state"], one["error"]) for one in charges if one["surface"] == "evaluation"}
        assert ends == {("evaluation", "released", "not_started")}
        assert {one["basis"] for one in charges if one["surface"] != "evaluation"} == {"counted"}
        assert {one["body"]["model"] for one in upstream.requests(caller.marker)} == {CHAT.model}


async def test_an_estimate_contains_the_call_of_the_judge(all_wires_server: Server) -> None:
    async with rated(all_wires_server) as caller:
        document = {"prompt": "x" * 200, "model": CHAT.model, "max_tokens": 50}
        plain, both = await asyncio.gather(
            *[_estimate(caller, document | {"evaluate": evaluate}) for evaluate in (False, True)]
        )
        assert plain["fits"]
        assert both["fits"]
        for hold in ("hold", "hold_exact"):
            assert both[hold] > plain[hold] + 200 + 50, hold
        assert both["max_output"] == plain["max_output"] == 50


async def _estimate(caller: ApiUser, document: dict[str, Any]) -> dict[str, Any]:
    async with caller.http.post("/ai/estimate", json=document, headers=caller.auth_headers) as response:
        assert response.status == 200, await response.text()
        body: dict[str, Any] = await response.json()
        return body
