"""Usage in the responses of the compatible endpoints: sent once, including reasoning, from any provider wire."""

import json
from typing import Any

import pytest

from journeys.support.client_formats import events_in
from journeys.support.provider_wires import CHAT, RESPONSES, Wire
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.upstream.handle import Upstream, scripted

pytestmark = pytest.mark.prove_only_on_postgres

REASONING_SCRIPT: dict[str, Any] = {
    "reasoning": "think first",
    "answer": "One two three.",
    "usage": {"input": 15, "output": 9, "reasoning": 4},
}
HEAD = {"id": "chatcmpl-theirs", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "theirs-1"}


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return f"data: {json.dumps(HEAD | {'choices': [choice]} | more)}\n\n"


async def post(caller: ApiUser, path: str, **document: Any) -> bytes:
    async with caller.http.post(path, json=document, headers=caller.auth_headers) as response:
        assert response.status == 200, await response.text()
        return await response.read()


async def chat(caller: ApiUser, prompt: str, model: str, **document: Any) -> bytes:
    messages = [{"role": "user", "content": prompt}]
    return await post(caller, "/v1/chat/completions", model=model, messages=messages, **document)


def chunks_in(body: bytes) -> list[dict[str, Any]]:
    *chunks, done = body.decode().removesuffix("\n\n").split("\n\n")
    assert done == "data: [DONE]"
    return [json.loads(one.removeprefix("data: ")) for one in chunks]


@pytest.mark.parametrize("wire", [CHAT, RESPONSES], ids=["chat", "responses"])
async def test_reasoning_tokens_are_in_the_usage_on_either_of_openais_wires(
    all_wires_server: Server, wire: Wire
) -> None:
    async with new_user(all_wires_server) as caller:
        prompt = scripted(caller.marker, **REASONING_SCRIPT)
        whole = json.loads(await chat(caller, prompt, wire.model))["usage"]
        streamed = chunks_in(
            await chat(caller, prompt, wire.model, stream=True, stream_options={"include_usage": True})
        )[-1]["usage"]
        for usage in (whole, streamed):
            assert (usage["prompt_tokens"], usage["completion_tokens"]) == (15, 9)
            assert usage["completion_tokens_details"]["reasoning_tokens"] == 4
        whole = json.loads(await post(caller, "/v1/responses", model=wire.model, input=prompt))["usage"]
        *_, last = events_in(await post(caller, "/v1/responses", model=wire.model, input=prompt, stream=True))
        streamed = json.loads(last.data)["response"]["usage"]
        for usage in (whole, streamed):
            assert (usage["input_tokens"], usage["output_tokens"]) == (15, 9)
            assert usage["output_tokens_details"]["reasoning_tokens"] == 4
        assert {charge["cost"] for charge in await caller.charges()} == {24}


@pytest.mark.parametrize("requested", [True, False])
async def test_usage_that_came_with_the_finish_reason_is_not_sent_again(
    all_wires_server: Server, requested: bool
) -> None:
    """Some compatible servers report usage in the chunk of the finish reason."""
    reported = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
    raw = chunk({"role": "assistant", "content": "hi"}) + chunk({}, "stop", usage=reported) + "data: [DONE]\n\n"
    async with new_user(all_wires_server) as caller:
        prompt = scripted(caller.marker, raw=raw, headers={"Content-Type": "text/event-stream"})
        options = {"stream_options": {"include_usage": True}} if requested else {}
        assert (await chat(caller, prompt, CHAT.model, stream=True, **options)).decode() == raw
        (charge,) = await caller.charges()
    assert (charge["cost"], charge["basis"]) == (14, "provider")


async def test_usage_that_was_not_reported_is_sent_as_charged_with_the_id_of_the_stream(
    all_wires_server: Server,
) -> None:
    raw = chunk({"role": "assistant", "content": "hi there"}) + chunk({}, "stop") + "data: [DONE]\n\n"
    async with new_user(all_wires_server) as caller:
        prompt = scripted(caller.marker, raw=raw, headers={"Content-Type": "text/event-stream"})
        received = chunks_in(
            await chat(caller, prompt, CHAT.model, stream=True, stream_options={"include_usage": True})
        )
        (charge,) = await caller.charges()
    *_, last = received
    assert len(received) == 3
    assert {name: last[name] for name in HEAD} == HEAD
    assert last["usage"]["total_tokens"] == charge["cost"]
    assert charge["basis"] == "counted"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
async def test_a_stream_that_is_cut_at_the_limit_keeps_its_id_to_the_end(all_wires_server: Server, path: str) -> None:
    wire = {"/v1/chat/completions": "on-chat", "/v1/responses": "on-responses", "/v1/messages": "on-messages"}[path]
    async with new_user(all_wires_server) as caller:
        prompt = scripted(caller.marker, over_generate=200)
        limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
        content = {"input": prompt} if path == "/v1/responses" else {"messages": [{"role": "user", "content": prompt}]}
        received = events_in(await post(caller, path, model=wire, stream=True, **{limit: 20}, **content))
        ids = {name for event in received if event.data != "[DONE]" for name in _ids(json.loads(event.data))}
    assert len(ids) == 1, ids


def _ids(event: dict[str, Any]) -> list[str]:
    """The id of the answer, if the event has it."""
    answer = event.get("response") or event.get("message") or (event if "choices" in event else {})
    return [answer["id"]] if "id" in answer else []


async def test_a_model_that_bills_unseen_tokens_has_a_larger_default_limit(
    all_wires_server: Server, upstream: Upstream
) -> None:
    async with new_user(all_wires_server) as caller:
        for model, limit in (("on-chat", 1024), ("silent", 4096)):
            prompt = scripted(f"{caller.marker}-{model}")
            await chat(caller, prompt, model)
            (request,) = upstream.requests(f"{caller.marker}-{model}")
            assert limit in request["body"].values(), request["body"]
