"""The `echo` model calls tools and answers by schemas on the endpoints of both SDKs. Each call has an exact charge."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI, BadRequestError

from journeys.clients.samples import WEATHER, Report, cost_of_all
from journeys.support.server import Server
from journeys.support.users import ApiUser

PROMPT = "Please use get_weather"
FUNCTION: dict[str, Any] = {"name": "get_weather", "description": "Tells.", "parameters": WEATHER}
SMALLEST = {"city": ""}
CALL_WORDS = 2
"""`get_weather{"city":`, `""}`."""
REPORT_WORDS = 4
"""`{"city":`, `"",`, `"degrees":`, `0}`."""


@pytest.fixture
async def anthropic(sdk_server: Server, caller: ApiUser) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=sdk_server.url, api_key=caller.token) as client:
        yield client


async def _chat(openai: AsyncOpenAI, *, streaming: bool, **fields: Any) -> Any:
    """The choice and the usage of a chat completion."""
    if not streaming:
        answer = await openai.chat.completions.create(model="echo", **fields)
        return answer.choices[0], answer.usage
    async with openai.chat.completions.stream(model="echo", stream_options={"include_usage": True}, **fields) as stream:
        final = await stream.get_final_completion()
        return final.choices[0], final.usage


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_chat_completion_calls_a_tool_and_answers_its_result(
    openai: AsyncOpenAI, caller: ApiUser, *, streaming: bool
) -> None:
    messages: list[Any] = [{"role": "user", "content": PROMPT}]
    tools = [{"type": "function", "function": FUNCTION}]
    choice, usage = await _chat(openai, streaming=streaming, messages=messages, tools=tools)
    (call,) = choice.message.tool_calls
    assert (choice.finish_reason, call.function.name) == ("tool_calls", "get_weather")
    assert json.loads(call.function.arguments) == SMALLEST
    assert (usage.prompt_tokens, usage.completion_tokens) == (3, CALL_WORDS)
    messages += [
        {"role": "assistant", "tool_calls": [call.model_dump(include={"id", "type", "function"})]},
        {"role": "tool", "tool_call_id": call.id, "content": "18 degrees"},
    ]
    choice, later = await _chat(openai, streaming=streaming, messages=messages, tools=tools)
    assert (choice.finish_reason, choice.message.content) == ("stop", "18 degrees")
    assert await cost_of_all(caller, 2) == usage.total_tokens + later.total_tokens


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_response_calls_a_tool(openai: AsyncOpenAI, caller: ApiUser, *, streaming: bool) -> None:
    fields: dict[str, Any] = {
        "model": "echo",
        "input": "hello",
        "tools": [{"type": "function", "strict": False, **FUNCTION}],
        "tool_choice": {"type": "function", "name": "get_weather"},
    }
    if streaming:
        async with openai.responses.stream(**fields) as stream:
            response: Any = await stream.get_final_response()
    else:
        response = await openai.responses.create(**fields)
    (call,) = response.output
    assert (response.status, call.type, call.name) == ("completed", "function_call", "get_weather")
    assert json.loads(call.arguments) == SMALLEST
    assert (response.usage.input_tokens, response.usage.output_tokens) == (1, CALL_WORDS)
    assert await cost_of_all(caller, 1) == 1 + CALL_WORDS


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_message_calls_a_tool(anthropic: AsyncAnthropic, caller: ApiUser, *, streaming: bool) -> None:
    fields: dict[str, Any] = {
        "model": "echo",
        "max_tokens": 50,
        "messages": [{"role": "user", "content": "hello"}],
        "tools": [{"name": "get_weather", "input_schema": WEATHER}],
        "tool_choice": {"type": "any"},
    }
    if streaming:
        async with anthropic.messages.stream(**fields) as stream:
            message: Any = await stream.get_final_message()
    else:
        message = await anthropic.messages.create(**fields)
    (block,) = message.content
    assert (message.stop_reason, block.type, block.name, block.input) == (
        "tool_use",
        "tool_use",
        "get_weather",
        SMALLEST,
    )
    assert (message.usage.input_tokens, message.usage.output_tokens) == (1, CALL_WORDS)
    assert await cost_of_all(caller, 1) == 1 + CALL_WORDS


async def test_each_sdk_parses_a_structured_answer(
    openai: AsyncOpenAI, anthropic: AsyncAnthropic, caller: ApiUser
) -> None:
    messages: list[Any] = [{"role": "user", "content": "hello"}]
    chat = await openai.chat.completions.parse(model="echo", messages=messages, response_format=Report)
    response = await openai.responses.parse(model="echo", input="hello", text_format=Report)
    message = await anthropic.messages.parse(model="echo", max_tokens=50, messages=messages, output_format=Report)
    expected = Report(city="", degrees=0)
    assert chat.choices[0].message.parsed == response.output_parsed == message.parsed_output == expected
    assert await cost_of_all(caller, 3) == 3 * (1 + REPORT_WORDS)


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_call_that_is_cut_costs_no_more_than_was_granted(
    openai: AsyncOpenAI, caller: ApiUser, *, streaming: bool
) -> None:
    fields: dict[str, Any] = {
        "messages": [{"role": "user", "content": PROMPT}],
        "tools": [{"type": "function", "function": FUNCTION}],
        "max_tokens": 1,
    }
    if streaming:
        stream = await openai.chat.completions.create(model="echo", stream=True, **fields)
        chunks = [chunk async for chunk in stream]
        finish_reason = chunks[-1].choices[0].finish_reason
    else:
        finish_reason = (await openai.chat.completions.create(model="echo", **fields)).choices[0].finish_reason
    assert finish_reason == "length"
    assert await cost_of_all(caller, 1) == 3 + 1


async def test_a_schema_that_echo_cannot_answer_is_refused_and_costs_nothing(
    openai: AsyncOpenAI, caller: ApiUser
) -> None:
    schema: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array", "minItems": 10**9}}}
    with pytest.raises(BadRequestError, match="too large"):
        await openai.chat.completions.create(
            model="echo",
            messages=[{"role": "user", "content": "x"}],
            response_format=schema,
        )
    assert await cost_of_all(caller, 0) == 0
