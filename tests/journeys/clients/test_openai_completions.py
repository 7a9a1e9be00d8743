"""The `openai` client with its defaults: text completions, counts of input tokens, and the list of models."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError

from journeys.clients.samples import ANSWER, CHUNKS, USAGE, cost_of_all
from journeys.support.users import ApiUser
from journeys.upstream.handle import Upstream, scripted

MODEL = "gpt-4o-mini"
MODELS = [MODEL, "at-openai", "at-anthropic", "echo"]


@pytest.mark.parametrize("model", MODELS)
async def test_a_completion_is_returned_whole_and_as_a_stream(openai: AsyncOpenAI, caller: ApiUser, model: str) -> None:
    prompt = ANSWER if model == "echo" else scripted(caller.marker, chunks=CHUNKS)
    whole = await openai.completions.create(model=model, prompt=[prompt], max_tokens=50)
    stream = await openai.completions.create(
        model=model, prompt=prompt, max_tokens=50, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = [chunk async for chunk in stream]
    assert (whole.object, whole.model, whole.choices[0].text, whole.choices[0].finish_reason) == (
        "text_completion",
        model,
        ANSWER,
        "stop",
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == ANSWER
    assert len(chunks) > 2
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert whole.usage is not None
    assert last.usage is not None
    assert await cost_of_all(caller, 2) == whole.usage.total_tokens + last.usage.total_tokens


async def test_the_provider_receives_a_chat(openai: AsyncOpenAI, caller: ApiUser, upstream: Upstream) -> None:
    prompt = scripted(caller.marker, usage=USAGE)
    await openai.completions.create(model=MODEL, prompt=prompt, max_tokens=50, temperature=0.5, stop="END", user="ada")
    (request,) = upstream.requests(caller.marker)
    body = request["body"]
    assert (request["path"], body["messages"]) == ("/v1/chat/completions", [{"role": "user", "content": prompt}])
    assert (body["max_tokens"], body["temperature"], body["stop"]) == (50, 0.5, ["END"])
    assert "user" not in body
    (charge,) = await caller.charges()
    assert (charge["surface"], charge["cost"]) == ("completions", 24)


@pytest.mark.parametrize("fields", [{"n": 2}, {"best_of": 3}, {"echo": True}, {"suffix": "."}, {"logprobs": 1}])
async def test_what_has_no_bound_or_no_translation_is_refused(
    openai: AsyncOpenAI, caller: ApiUser, fields: dict[str, Any]
) -> None:
    with pytest.raises(BadRequestError) as refused:
        await openai.completions.create(model="echo", prompt="x", **fields)
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", next(iter(fields)))
    assert await cost_of_all(caller, 0) == 0


async def test_several_prompts_are_refused(openai: AsyncOpenAI) -> None:
    with pytest.raises(BadRequestError, match="prompt must be a text, or a list of one text"):
        await openai.completions.create(model="echo", prompt=["one", "two"])


@pytest.mark.parametrize("fields", [{"input": "one two three"}, {"input": "one", "instructions": "two three"}])
async def test_the_tokens_of_an_input_are_counted_free_of_charge(
    openai: AsyncOpenAI, caller: ApiUser, fields: dict[str, Any]
) -> None:
    counted = await openai.responses.input_tokens.count(model="echo", **fields)
    response = await openai.responses.create(model="echo", **fields)
    assert response.usage is not None
    assert (counted.object, counted.input_tokens) == ("response.input_tokens", response.usage.input_tokens)
    assert counted.input_tokens == 3
    await cost_of_all(caller, 1)


async def test_a_count_refuses_what_a_response_refuses(openai: AsyncOpenAI) -> None:
    with pytest.raises(BadRequestError, match="Send the earlier items in input") as refused:
        await openai.responses.input_tokens.count(model="echo", input="x", previous_response_id="resp_1")
    assert refused.value.param == "previous_response_id"


async def test_every_model_has_the_same_plausible_time(openai: AsyncOpenAI) -> None:
    listed = [model async for model in openai.models.list()]
    times = {model.created for model in listed} | {(await openai.models.retrieve("echo")).created}
    (created,) = times
    assert datetime(2020, 1, 1, tzinfo=UTC) < datetime.fromtimestamp(created, UTC) < datetime.now(UTC)


async def test_anthropics_list_of_models_has_the_same_time(openai: AsyncOpenAI, caller: ApiUser) -> None:
    headers = caller.auth_headers | {"anthropic-version": "2023-06-01"}
    created = (await openai.models.retrieve("echo")).created
    for path in ("/v1/models", "/v1/models/echo"):
        async with caller.http.get(path, headers=headers) as response:
            document = json.loads(await response.read())
        for model in document.get("data", [document]):
            assert datetime.fromisoformat(model["created_at"]).timestamp() == created
