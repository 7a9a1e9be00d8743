"""The wires of the fake upstream match the real ones: OpenAI's by its SDK, the others by their references."""

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionChunk, ChatCompletionFunctionToolParam

from journeys.upstream.handle import Upstream, scripted
from journeys.upstream.raw_client import MESSAGES, OLLAMA, send_prompt, send_script
from support.deadlines import TEST_DEADLINE_S

pytestmark = pytest.mark.exhaustive  # tests a tool of the tests, not the product

ARGUMENTS = {"city": "Paris", "days": 3}
CALL = {"name": "find", "arguments": ARGUMENTS}
MODEL: dict[str, Any] = {"model": "gpt-4o-mini"}
TOOL: ChatCompletionFunctionToolParam = {"type": "function", "function": {"name": "find", "parameters": {}}}


@pytest.fixture
async def client(upstream: Upstream) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=upstream.base_url, api_key="key", max_retries=0, timeout=TEST_DEADLINE_S
    ) as client:
        yield client


def _messages(**script: Any) -> Any:
    return [{"role": "user", "content": [{"type": "text", "text": scripted("wires", **script)}]}]


async def _chat(client: openai.AsyncOpenAI, options: dict[str, Any], **script: Any) -> list[ChatCompletionChunk]:
    return [
        chunk
        async for chunk in await client.chat.completions.create(
            model="gpt-4o-mini", stream=True, messages=_messages(**script), **options
        )
    ]


async def test_a_chat_stream_starts_with_the_role_and_ends_with_finish_reason_and_usage(
    client: openai.AsyncOpenAI,
) -> None:
    first, *middle, end, last = await _chat(
        client, {"stream_options": {"include_usage": True}}, reasoning="Hm so", answer="One two", usage={"input": 4}
    )
    assert first.choices[0].delta.role == "assistant"
    deltas = [chunk.choices[0].delta.model_dump(exclude_unset=True) for chunk in middle]
    assert deltas == [
        {"reasoning_content": "Hm"},
        {"reasoning_content": " so"},
        {"content": "One"},
        {"content": " two"},
    ]
    assert end.choices[0].finish_reason == "stop"
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens_details is not None
    usage = (
        last.usage.prompt_tokens,
        last.usage.completion_tokens,
        last.usage.completion_tokens_details.reasoning_tokens,
    )
    assert usage == (4, 4, 2)
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in [first, *middle, end])


async def test_a_chat_stream_reports_no_usage_unless_requested(client: openai.AsyncOpenAI) -> None:
    chunks = await _chat(client, {})
    assert not any("usage" in chunk.model_fields_set for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_a_chat_has_choices_logprobs_and_refusals(client: openai.AsyncOpenAI) -> None:
    options: dict[str, Any] = {"n": 2, "logprobs": True, "top_logprobs": 2}
    whole = await client.chat.completions.create(model="gpt-4o-mini", messages=_messages(answer="One two"), **options)
    assert [choice.message.content for choice in whole.choices] == ["One two"] * 2
    assert whole.choices[1].logprobs is not None
    assert whole.choices[1].logprobs.content is not None
    assert [token.token for token in whole.choices[1].logprobs.content] == ["One", " two"]
    assert len(whole.choices[1].logprobs.content[0].top_logprobs) == 2
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 4
    choices = [chunk.choices[0] for chunk in await _chat(client, options, answer="One two")]
    for index in (0, 1):
        with_text = [choice for choice in choices if choice.index == index and choice.delta.content]
        assert [choice.delta.content for choice in with_text] == ["One", " two"]
        assert all(choice.logprobs and choice.logprobs.content for choice in with_text)
    refused = await client.chat.completions.create(model="gpt-4o-mini", messages=_messages(refusal="I would not"))
    assert (refused.choices[0].message.refusal, refused.choices[0].message.content) == ("I would not", None)
    deltas = [chunk.choices[0].delta.refusal for chunk in await _chat(client, {}, refusal="I would not")]
    assert "".join(filter(None, deltas)) == "I would not"


async def test_a_chat_tool_call_is_streamed_name_first_and_arguments_after(client: openai.AsyncOpenAI) -> None:
    two = [CALL, {"name": "other", "arguments": {}}]
    async with client.chat.completions.stream(
        model="gpt-4o-mini", messages=_messages(tool_call=two), tools=[TOOL]
    ) as stream:
        streamed = await stream.get_final_completion()
    whole = await client.chat.completions.create(model="gpt-4o-mini", messages=_messages(tool_call=two))
    for choice in (streamed.choices[0], whole.choices[0]):
        assert choice.finish_reason == "tool_calls"
        assert choice.message.tool_calls is not None
        calls = [call.function for call in choice.message.tool_calls if call.type == "function"]
        assert [(call.name, json.loads(call.arguments)) for call in calls] == [("find", ARGUMENTS), ("other", {})]
    deltas = [
        tool for chunk in await _chat(client, {}, tool_call=two) for tool in chunk.choices[0].delta.tool_calls or []
    ]
    assert [(one.index, one.id) for one in deltas if one.id] == [(0, "call_0"), (1, "call_1")]
    assert len([one for one in deltas if one.function and one.function.arguments]) > 3


async def test_the_events_of_a_response_add_up_to_it(client: openai.AsyncOpenAI) -> None:
    script: dict[str, Any] = {"reasoning": "Hm so", "answer": "One two", "tool_call": CALL, "usage": {"cached": 2}}
    async with client.responses.stream(input=_messages(**script), **MODEL) as stream:
        events = [event async for event in stream]
        streamed = await stream.get_final_response()
    whole = await client.responses.create(input=_messages(**script), **MODEL)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"
    for response in (streamed, whole):
        assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]
        assert response.output_text == "One two"
        assert response.usage is not None
        assert (response.usage.input_tokens_details.cached_tokens, response.usage.output_tokens) == (2, 8)
        assert response.usage.output_tokens_details.reasoning_tokens == 2
        call = response.output[2].to_dict()
        assert (call["name"], call["call_id"], json.loads(str(call["arguments"]))) == ("find", "call_2", ARGUMENTS)


async def test_a_response_may_be_incomplete_or_failed_or_refused(client: openai.AsyncOpenAI) -> None:
    kinds = {"incomplete": {"finish_reason": "length"}, "failed": {"finish_reason": "failed"}, "completed": {}}
    for kind, script in kinds.items():
        stream = await client.responses.create(input=_messages(refusal="I would not", **script), stream=True, **MODEL)
        events = [event async for event in stream]
        assert events[-1].type == f"response.{kind}"
        refused = "".join(event.delta for event in events if event.type == "response.refusal.delta")
        assert refused == "I would not"


async def test_embeddings_are_equal_as_numbers_and_in_base64(client: openai.AsyncOpenAI) -> None:
    inputs = ["one two", scripted("wires", usage={"input": 30})]
    packed = await client.embeddings.create(model="m", input=inputs)
    plain = await client.embeddings.create(model="m", input=inputs, encoding_format="float")
    assert [one.embedding for one in packed.data] == [one.embedding for one in plain.data]
    assert packed.data[0].embedding != packed.data[1].embedding
    assert packed.usage.prompt_tokens == 30
    assert (await client.embeddings.create(model="m", input=[[1, 2, 3]])).usage.total_tokens == 3
    assert [model.id async for model in await client.models.list()]


async def test_a_message_streams_blocks_between_its_start_and_its_stop(upstream: Upstream) -> None:
    script: dict[str, Any] = {"reasoning": "Hm so", "answer": "One two", "tool_call": CALL}
    usage = {"input": 9, "cached": 4, "output": 8}
    response = await send_script(upstream, MESSAGES, usage=usage, **script)
    names = [line.removeprefix("event: ") for line in response.body.decode().split("\n") if line.startswith("event: ")]
    assert names == [event["type"] for event in response.events]
    start, block, ping, *deltas = response.events[:5]
    reported = start["message"]["usage"]
    assert (reported["input_tokens"], reported["cache_read_input_tokens"], reported["output_tokens"]) == (5, 4, 1)
    assert (block["content_block"]["type"], ping["type"]) == ("thinking", "ping")
    assert [delta["delta"]["thinking"] for delta in deltas] == ["Hm", " so"]
    assert names.count("content_block_start") == names.count("content_block_stop") == 3
    pieces = [
        event["delta"].get("partial_json", "") for event in response.events if event["type"] == "content_block_delta"
    ]
    assert json.loads("".join(pieces)) == ARGUMENTS
    assert response.events[-2]["delta"]["stop_reason"] == "tool_use"
    assert response.events[-2]["usage"]["output_tokens"] == 8
    whole = (await send_script(upstream, MESSAGES, stream=False, usage=usage, **script)).document
    assert [block["type"] for block in whole["content"]] == ["thinking", "text", "tool_use"]
    assert whole["content"][2]["input"] == ARGUMENTS


async def test_the_tokens_of_a_message_are_counted_without_an_entry_in_the_log(own_upstream: Upstream) -> None:
    counting = MESSAGES._replace(path="/v1/messages/count_tokens")
    assert (await send_prompt(own_upstream, counting, "one two three", {"system": "four"})).document == {
        "input_tokens": 4
    }
    assert own_upstream.served() == []


async def test_ollama_streams_by_default(upstream: Upstream) -> None:
    response = await send_prompt(upstream, OLLAMA, scripted("wires", reasoning="Hm", answer="One two"), {})
    assert [event["message"].get("thinking", event["message"]["content"]) for event in response.events] == [
        "Hm",
        "One",
        " two",
        "",
    ]
    assert [event["done"] for event in response.events] == [False, False, False, True]
    assert (response.events[-1]["done_reason"], response.events[-1]["eval_count"]) == ("stop", 3)
    for stream in (True, False):
        called = await send_script(upstream, OLLAMA, stream=stream, tool_call=CALL)
        assert called.events[0]["message"]["tool_calls"] == [{"function": {"name": "find", "arguments": ARGUMENTS}}]
