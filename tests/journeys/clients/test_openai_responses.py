"""The `openai` client with its defaults: responses."""

import json
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.types.responses import FunctionToolParam

from journeys.clients.samples import ANSWER, CALL, CHUNKS, PIXEL, USAGE, WEATHER, Report, cost_of_all
from journeys.support.users import ApiUser
from journeys.upstream.handle import Upstream, scripted

MODEL = "gpt-4o-mini"
OTHER_PROVIDERS = ["at-anthropic", "echo"]
TOOLS: list[FunctionToolParam] = [
    {"type": "function", "name": "get_weather", "description": "Tells.", "parameters": WEATHER, "strict": False}
]


@pytest.mark.parametrize("model", [MODEL, *OTHER_PROVIDERS])
async def test_a_response_is_returned_whole_and_as_events(openai: AsyncOpenAI, caller: ApiUser, model: str) -> None:
    prompt = ANSWER if model == "echo" else scripted(caller.marker, chunks=CHUNKS)
    whole = await openai.responses.create(model=model, input=prompt, instructions="Be brief.", max_output_tokens=50)
    events = [event async for event in await openai.responses.create(model=model, input=prompt, stream=True)]
    assert (whole.status, whole.output_text, whole.model) == ("completed", ANSWER, model)
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == ANSWER
    first, last = events[0], events[-1]
    assert first.type == "response.created"
    assert last.type == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    final = last.response
    assert final.output_text == ANSWER
    assert whole.usage is not None
    assert final.usage is not None
    total = whole.usage.total_tokens + final.usage.total_tokens
    assert await cost_of_all(caller, 2) == total


async def test_a_response_is_not_stored_at_the_provider(
    openai: AsyncOpenAI, caller: ApiUser, upstream: Upstream
) -> None:
    await openai.responses.create(model=MODEL, input=scripted(caller.marker, usage=USAGE), max_output_tokens=50)
    (request,) = upstream.requests(caller.marker)
    body = request["body"]
    assert (request["path"], body["store"], body["max_output_tokens"]) == ("/v1/responses", False, 50)


@pytest.mark.parametrize("model", [MODEL, *OTHER_PROVIDERS])
async def test_the_stream_helper_assembles_the_answer(openai: AsyncOpenAI, caller: ApiUser, model: str) -> None:
    prompt = ANSWER if model == "echo" else scripted(caller.marker, chunks=CHUNKS)
    async with openai.responses.stream(model=model, input=prompt) as stream:
        deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert ("".join(deltas), final.output_text) == (ANSWER, ANSWER)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("model", [MODEL, "at-anthropic"])
async def test_a_tool_is_called_and_its_result_answered(
    openai: AsyncOpenAI, caller: ApiUser, upstream: Upstream, model: str, *, streaming: bool
) -> None:
    prompt = scripted(caller.marker, answer=ANSWER, tool_call=CALL, usage=USAGE)
    items: list[Any] = [{"role": "user", "content": prompt}]
    if streaming:
        async with openai.responses.stream(model=model, input=items, tools=TOOLS) as stream:
            first: Any = await stream.get_final_response()
    else:
        first = await openai.responses.create(model=model, input=items, tools=TOOLS)
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert (call.name, json.loads(call.arguments)) == (CALL["name"], CALL["arguments"])
    items += [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in first.output]
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "20 degrees"})
    second = await openai.responses.create(model=model, input=items, tools=TOOLS)
    assert second.output_text == ANSWER
    second_body = json.dumps(upstream.requests(caller.marker)[1]["body"])
    assert call.call_id in second_body
    assert "20 degrees" in second_body
    assert await cost_of_all(caller, 2) == 48


async def test_the_items_of_an_answer_can_be_sent_back_unchanged(
    openai: AsyncOpenAI, caller: ApiUser, upstream: Upstream
) -> None:
    """As OpenAI's guides do. Ids and reasoning are left out, because a provider that stores nothing refuses them."""
    prompt = scripted(caller.marker, reasoning="I look outside.", answer=ANSWER, tool_call=CALL, usage=USAGE)
    items: list[Any] = [{"role": "user", "content": prompt}]
    first: Any = await openai.responses.create(model=MODEL, input=items, tools=TOOLS)
    assert [item.type for item in first.output] == ["reasoning", "message", "function_call"]
    items += first.output
    items.append({"type": "function_call_output", "call_id": first.output[2].call_id, "output": "20 degrees"})
    second = await openai.responses.create(model=MODEL, input=items, tools=TOOLS)
    assert second.output_text == ANSWER
    sent = upstream.requests(caller.marker)[1]["body"]["input"]
    assert [item.get("type") for item in sent] == [None, "message", "function_call", "function_call_output"]
    assert not any("id" in item for item in sent)


@pytest.mark.parametrize("model", [MODEL, "at-anthropic"])
async def test_an_answer_is_parsed_into_the_callers_own_type(openai: AsyncOpenAI, caller: ApiUser, model: str) -> None:
    prompt = scripted(caller.marker, answer='{"city": "Oslo", "degrees": 20}')
    parsed = await openai.responses.parse(model=model, input=prompt, text_format=Report)
    assert parsed.output_parsed == Report(city="Oslo", degrees=20)


@pytest.mark.parametrize("model", [MODEL, "at-anthropic"])
async def test_a_picture_is_passed_on(openai: AsyncOpenAI, caller: ApiUser, upstream: Upstream, model: str) -> None:
    content: Any = [
        {"type": "input_text", "text": scripted(caller.marker, answer=ANSWER)},
        {"type": "input_image", "image_url": PIXEL, "detail": "auto"},
    ]
    response = await openai.responses.create(model=model, input=[{"role": "user", "content": content}])
    assert response.output_text == ANSWER
    assert PIXEL.partition(",")[2] in json.dumps(upstream.requests(caller.marker)[0]["body"])


@pytest.mark.parametrize("model", [MODEL, *OTHER_PROVIDERS])
async def test_an_answer_that_is_cut_is_incomplete(openai: AsyncOpenAI, caller: ApiUser, model: str) -> None:
    words = " ".join(["word"] * 40)
    prompt = words if model == "echo" else scripted(caller.marker, answer=words)
    whole = await openai.responses.create(model=model, input=prompt, max_output_tokens=20)
    events = [
        event
        async for event in await openai.responses.create(model=model, input=prompt, max_output_tokens=20, stream=True)
    ]
    last = events[-1]
    assert last.type == "response.incomplete"
    for response in (whole, last.response):
        assert response.status == "incomplete"
        assert response.incomplete_details is not None
        assert response.incomplete_details.reason == "max_output_tokens"
    assert [charge["output_tokens"] for charge in await caller.charges()] == [20, 20]


async def test_a_provider_that_exceeds_the_limit_is_cut_within_its_own_items(
    openai: AsyncOpenAI, caller: ApiUser
) -> None:
    """The helper raises if an item ends with another id than it began with."""
    prompt = scripted(caller.marker, reasoning="I think so.", over_generate=200)
    async with openai.responses.stream(model=MODEL, input=prompt, max_output_tokens=20) as stream:
        events = [event async for event in stream]
    last = events[-1]
    assert last.type == "response.incomplete"
    assert [item.id for item in last.response.output] == ["rs_0", "item_1"]
    streamed = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert last.response.output_text == streamed
    (charge,) = await caller.charges()
    assert last.response.usage is not None
    assert charge["cost"] == last.response.usage.total_tokens


async def test_reasoning_is_counted_and_reported(openai: AsyncOpenAI, caller: ApiUser) -> None:
    prompt = scripted(caller.marker, reasoning="I think so.", answer=ANSWER)
    response = await openai.responses.create(model=MODEL, input=prompt, reasoning={"effort": "low"})
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.usage is not None
    assert (response.usage.output_tokens, response.usage.output_tokens_details.reasoning_tokens) == (7, 3)
    assert await cost_of_all(caller, 1) == response.usage.total_tokens
