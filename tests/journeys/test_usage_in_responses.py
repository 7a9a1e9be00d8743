"""What a caller hears of the usage on others' wires: once, with the thinking in it, whoever's wire it came on."""

import json
from typing import Any

import pytest

from journeys.support.client_formats import events_in
from journeys.support.provider_wires import CHAT, RESPONSES, Wire
from journeys.support.server import Server
from journeys.support.users import Person, person
from journeys.upstream.handle import Upstream, scripted

pytestmark = pytest.mark.exhaustive_on_postgres

THOUGHT: dict[str, Any] = {
    "reasoning": "think first",
    "answer": "One two three.",
    "usage": {"input": 15, "output": 9, "reasoning": 4},
}
HEAD = {"id": "chatcmpl-theirs", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "theirs-1"}


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return f"data: {json.dumps(HEAD | {'choices': [choice]} | more)}\n\n"


async def posted(caller: Person, path: str, **document: Any) -> bytes:
    async with caller.http.post(path, json=document, headers=caller.bearer) as response:
        assert response.status == 200, await response.text()
        return await response.read()


async def chat(caller: Person, prompt: str, model: str, **document: Any) -> bytes:
    messages = [{"role": "user", "content": prompt}]
    return await posted(caller, "/v1/chat/completions", model=model, messages=messages, **document)


def chunks_in(body: bytes) -> list[dict[str, Any]]:
    *chunks, done = body.decode().removesuffix("\n\n").split("\n\n")
    assert done == "data: [DONE]"
    return [json.loads(one.removeprefix("data: ")) for one in chunks]


@pytest.mark.parametrize("wire", [CHAT, RESPONSES], ids=["chat", "responses"])
async def test_thinking_is_told_on_either_of_openais_wires_wherever_it_was_reported(doors: Server, wire: Wire) -> None:
    async with person(doors) as caller:
        prompt = scripted(caller.marker, **THOUGHT)
        whole = json.loads(await chat(caller, prompt, wire.model))["usage"]
        streamed = chunks_in(
            await chat(caller, prompt, wire.model, stream=True, stream_options={"include_usage": True})
        )[-1]["usage"]
        for usage in (whole, streamed):
            assert (usage["prompt_tokens"], usage["completion_tokens"]) == (15, 9)
            assert usage["completion_tokens_details"]["reasoning_tokens"] == 4
        whole = json.loads(await posted(caller, "/v1/responses", model=wire.model, input=prompt))["usage"]
        *_, last = events_in(await posted(caller, "/v1/responses", model=wire.model, input=prompt, stream=True))
        streamed = json.loads(last.data)["response"]["usage"]
        for usage in (whole, streamed):
            assert (usage["input_tokens"], usage["output_tokens"]) == (15, 9)
            assert usage["output_tokens_details"]["reasoning_tokens"] == 4
        assert {charge["cost"] for charge in await caller.charges()} == {24}


@pytest.mark.parametrize("wanted", [True, False])
async def test_usage_that_came_with_the_last_words_is_not_told_again(doors: Server, wanted: bool) -> None:
    """Some compatible servers report it in the chunk that says why they stop."""
    told = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
    raw = chunk({"role": "assistant", "content": "hi"}) + chunk({}, "stop", usage=told) + "data: [DONE]\n\n"
    async with person(doors) as caller:
        prompt = scripted(caller.marker, raw=raw, headers={"Content-Type": "text/event-stream"})
        options = {"stream_options": {"include_usage": True}} if wanted else {}
        assert (await chat(caller, prompt, CHAT.model, stream=True, **options)).decode() == raw
        (charge,) = await caller.charges()
    assert (charge["cost"], charge["basis"]) == (14, "provider")


async def test_usage_that_never_came_is_told_as_charged_in_the_streams_own_name(doors: Server) -> None:
    raw = chunk({"role": "assistant", "content": "hi there"}) + chunk({}, "stop") + "data: [DONE]\n\n"
    async with person(doors) as caller:
        prompt = scripted(caller.marker, raw=raw, headers={"Content-Type": "text/event-stream"})
        heard = chunks_in(await chat(caller, prompt, CHAT.model, stream=True, stream_options={"include_usage": True}))
        (charge,) = await caller.charges()
    *_, last = heard
    assert len(heard) == 3
    assert {name: last[name] for name in HEAD} == HEAD
    assert last["usage"]["total_tokens"] == charge["cost"]
    assert charge["basis"] == "counted"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
async def test_what_is_cut_for_its_length_ends_in_the_name_in_which_it_began(doors: Server, path: str) -> None:
    wire = {"/v1/chat/completions": "on-chat", "/v1/responses": "on-responses", "/v1/messages": "on-messages"}[path]
    async with person(doors) as caller:
        prompt = scripted(caller.marker, over_generate=200)
        limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
        asked = {"input": prompt} if path == "/v1/responses" else {"messages": [{"role": "user", "content": prompt}]}
        heard = events_in(await posted(caller, path, model=wire, stream=True, **{limit: 20}, **asked))
        names = {name for event in heard if event.data != "[DONE]" for name in _names(json.loads(event.data))}
    assert len(names) == 1, names


def _names(event: dict[str, Any]) -> list[str]:
    """The id of the answer, where an event says it."""
    told = event.get("response") or event.get("message") or (event if "choices" in event else {})
    return [told["id"]] if "id" in told else []


async def test_a_model_that_thinks_unseen_has_room_for_it(doors: Server, upstream: Upstream) -> None:
    async with person(doors) as caller:
        for model, limit in (("on-chat", 1024), ("silent", 4096)):
            prompt = scripted(f"{caller.marker}-{model}")
            await chat(caller, prompt, model)
            (seen,) = upstream.seen(f"{caller.marker}-{model}")
            assert limit in seen["body"].values(), seen["body"]
