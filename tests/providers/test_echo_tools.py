"""The echo provider calls tools and answers by JSON Schemas. Its usage is the words that it has sent."""

import json
from contextlib import aclosing
from typing import Any

import pytest

from tollkeeper.chat import (
    ChatRequest,
    Completion,
    Finish,
    Message,
    Options,
    TextDelta,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolResult,
    Usage,
)
from tollkeeper.errors import InvalidRequest
from tollkeeper.providers.base import CallInput, Model, PreparedCall
from tollkeeper.providers.echo import EchoProvider
from tollkeeper.quota.rules.meter import input_bound

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["New York"]}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city", "days"],
}
ARGUMENTS = '{"city": "New York", "days": 1}'
CALL_WORDS = 5
"""`get_weather{"city":`, `"New`, `York",`, `"days":`, `1}`."""
WEATHER = Tool("get_weather", "Tells.", SCHEMA)
TIME = Tool("get_time", None, None)
NOTE = Tool("note", None, None, custom=True)
PROVIDER = EchoProvider()


def prepared(*messages: Message | str, provider: EchoProvider = PROVIDER, **options: Any) -> PreparedCall:
    given = tuple(Message("user", one) if isinstance(one, str) else one for one in messages)
    request = ChatRequest(given, Options(**options))
    return provider.prepare(Model("echo", provider), CallInput(lambda: request))


async def complete(*messages: Message | str, max_output: int = 100, **options: Any) -> Completion:
    return await PROVIDER.complete(prepared(*messages, **options), max_output)


async def called(*messages: Message | str, **options: Any) -> str | None:
    """The name of the tool that is called, if any."""
    completion = await complete(*messages, **options)
    assert completion.finish_reason == ("tool_calls" if completion.tool_calls else "stop")
    return completion.tool_calls[0].name if completion.tool_calls else None


async def test_a_required_tool_is_called_with_the_smallest_valid_arguments() -> None:
    completion = await complete("hello there", tools=(WEATHER,), tool_choice="required")
    (call,) = completion.tool_calls
    assert (call.name, call.arguments, call.custom) == ("get_weather", ARGUMENTS, False)
    assert (completion.text, completion.finish_reason, completion.usage) == ("", "tool_calls", Usage(2, CALL_WORDS))


async def test_the_tool_is_the_one_that_the_choice_or_else_the_message_names() -> None:
    tools = (WEATHER, TIME)
    assert await called("hello", tools=tools) is None
    assert await called("hello", tools=tools, tool_choice="auto") is None
    assert await called("hello", tools=tools, tool_choice="required") == "get_weather"
    assert await called("hello", tools=tools, tool_choice="tool:get_time") == "get_time"
    assert await called("get_weather", tools=tools, tool_choice="tool:get_time") == "get_time"
    assert await called("Please call `get_time()`, then get_weather.", tools=tools) == "get_time"
    assert await called("call get_time", tools=tools, tool_choice="required") == "get_time"
    assert await called("call get_time", tools=tools, tool_choice="none") is None
    assert await called("call get_times", tools=tools) is None
    assert await called("get_time", "hello", tools=tools) is None
    assert await called(Message("assistant", "get_time"), tools=tools) is None
    assert await called("get_time") is None


async def test_a_tool_without_a_schema_is_called_with_an_empty_object() -> None:
    (call,) = (await complete("get_time", tools=(TIME,))).tool_calls
    assert call.arguments == "{}"


async def test_a_custom_tool_receives_the_message() -> None:
    completion = await complete("note this  down", tools=(NOTE,))
    (call,) = completion.tool_calls
    assert (call.name, call.arguments, call.custom) == ("note", "note this down", True)
    assert completion.usage == Usage(3, 3)


async def test_the_result_of_a_tool_is_answered_with_text_even_if_a_tool_is_required() -> None:
    call = ToolCall("call_1", "get_weather", ARGUMENTS)
    messages = (
        Message("user", "get_weather"),
        Message("assistant", (call,)),
        Message("user", (ToolResult("call_1", "18 degrees"),)),
    )
    completion = await complete(*messages, tools=(WEATHER,), tool_choice="required")
    assert (completion.text, completion.tool_calls) == ("18 degrees", ())
    words_of_the_call = 1 + len(ARGUMENTS.split())
    assert completion.usage == Usage(1 + words_of_the_call + 2, 2)


@pytest.mark.parametrize("max_output", range(1, CALL_WORDS + 2))
async def test_a_call_is_cut_at_the_output_limit_whole_and_streamed(max_output: int) -> None:
    """The usage is what the gateway would count of the same call."""
    call = prepared("x", tools=(WEATHER,), tool_choice="required")
    whole = await PROVIDER.complete(call, max_output)
    async with aclosing(PROVIDER.stream(call, max_output)) as stream:
        deltas = [delta for chunk in [chunk async for chunk in stream] for delta in chunk.deltas]
    (sent,) = whole.tool_calls
    pieces = [delta for delta in deltas if isinstance(delta, ToolCallDelta)]
    assert "".join(piece.arguments for piece in pieces) == sent.arguments == ARGUMENTS[: len(sent.arguments)]
    assert [(piece.index, piece.id, piece.name) for piece in pieces] == [
        (0, sent.id, "get_weather"),
        *[(0, None, None)] * (len(pieces) - 1),
    ]
    words = min(max_output, CALL_WORDS)
    assert await PROVIDER.count_output(sent.name + sent.arguments) == len(pieces) == words
    finish_reason = "tool_calls" if max_output >= CALL_WORDS else "length"
    assert whole.usage == deltas[-1] == Usage(1, words)
    assert (whole.finish_reason, deltas[-2]) == (finish_reason, Finish(finish_reason))


async def test_the_id_of_a_call_is_the_same_for_the_same_messages_and_another_in_the_next_turn() -> None:
    first, again = [await complete("get_time", tools=(TIME,)) for _ in range(2)]
    (call,) = first.tool_calls
    result = Message("user", (ToolResult(call.id, "noon"),))
    later = await complete("get_time", Message("assistant", (call,)), result, "get_time", tools=(TIME,))
    assert first == again
    assert later.tool_calls[0].id != call.id


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"schema": SCHEMA}, ARGUMENTS),
        ({"schema": {"type": "string"}}, '""'),
        ({"json": True}, "{}"),
        ({"schema": SCHEMA, "tools": (TIME,)}, ARGUMENTS),
    ],
)
async def test_a_request_for_json_is_answered_with_the_smallest_value(options: dict[str, Any], text: str) -> None:
    words = len(text.split())
    assert await complete("hello", **options) == Completion(text, "stop", Usage(1, words))
    assert (await complete("hello", **options, max_output=words)).finish_reason == "stop"


async def test_json_is_streamed_in_words_and_cut_at_the_output_limit() -> None:
    async with aclosing(PROVIDER.stream(prepared("x", schema=SCHEMA), 2)) as stream:
        deltas = [delta for chunk in [chunk async for chunk in stream] for delta in chunk.deltas]
    assert deltas == [TextDelta('{"city":'), TextDelta(' "New'), Finish("length"), Usage(1, 2)]


async def test_the_length_of_the_echo_does_not_apply_to_calls_and_json() -> None:
    provider = EchoProvider(tokens=50)
    for options in ({"schema": SCHEMA}, {"tools": (TIME,), "tool_choice": "required"}):
        completion = await provider.complete(prepared("x", provider=provider, **options), 100)
        text = completion.text or completion.tool_calls[0].arguments
        assert json.loads(text) in ({}, {"city": "New York", "days": 1})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tools": (WEATHER,), "tool_choice": "tool:other"}, "tool_choice names a tool"),
        ({"tools": (Tool("get weather", None, None),), "tool_choice": "required"}, "A tool's name"),
        ({"tools": (Tool("x", None, {"not": {}}),), "tool_choice": "required"}, "finds no value"),
        ({"schema": {"not": {}}}, "finds no value"),
    ],
)
def test_what_echo_cannot_answer_is_refused_before_the_call(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        prepared("hello", **options)


async def test_the_input_bounds_are_never_below_the_usage_of_calls_and_results() -> None:
    call = prepared(Message("assistant", (ToolCall("c", "f", "a b"), ToolCall("c", "f", ""))), "x")
    used = await PROVIDER.count_input(call)
    assert used == 4 + 1
    assert used <= input_bound(len(call.body), call.input_size.messages, 0)
