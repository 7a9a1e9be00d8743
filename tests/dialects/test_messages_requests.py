"""Requests in the messages format, read as a ChatRequest and written from one."""

from typing import Any

import msgspec
import orjson
import pytest
from anthropic.types import message_create_params
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tollkeeper.chat import ChatRequest, Image, Message, Options, Reasoning, Tool, ToolCall, ToolResult
from tollkeeper.dialects import messages
from tollkeeper.dialects.messages.request_writer import JSON_INSTRUCTION
from tollkeeper.errors import UnsupportedParameter

PNG = "data:image/png;base64,aGVsbG8="
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"name": "weather", "input_schema": SCHEMA}
HELLO = [{"role": "user", "content": "hello"}]


def message_of(*blocks: dict[str, Any], role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": list(blocks)}]


def test_every_part_of_a_request_is_read() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}}
    cached = {"type": "text", "text": "look", "cache_control": {"type": "ephemeral"}}
    call = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Ulm"}}
    thinking = {"type": "thinking", "thinking": "hm", "signature": "s"}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "rain"}]}
    request = messages.read_request(
        {
            "model": "claude-opus-5",
            "max_tokens": 100,
            "system": [{"type": "text", "text": "be kind"}],
            "messages": [
                *message_of(cached, image),
                *message_of(thinking, call, role="assistant"),
                *message_of(result),
            ],
            "tools": [TOOL | {"description": "tells", "strict": True}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
            "stop_sequences": ["END"],
            "temperature": 0.5,
            "thinking": {"type": "adaptive"},
            "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": SCHEMA}},
        }
    )
    assert request == ChatRequest(
        (
            Message("system", ("be kind",)),
            Message("user", ("look", Image(PNG))),
            Message("assistant", (Reasoning("hm", "s"), ToolCall("t1", "weather", '{"city":"Ulm"}'))),
            Message("user", (ToolResult("t1", "rain"),)),
        ),
        Options(
            temperature=0.5,
            stop=("END",),
            effort="high",
            tools=(Tool("weather", "tells", SCHEMA, strict=True),),
            tool_choice="required",
            parallel_tools=False,
            schema=SCHEMA,
        ),
    )


@pytest.mark.parametrize(
    ("document", "parameter"),
    [
        ({"top_k": 3}, "top_k"),
        ({"messages": message_of({"type": "search_result", "source": "a", "title": "b", "content": []})}, None),
        ({"messages": message_of({"type": "container_upload", "file_id": "file_1"})}, None),
    ],
)
def test_a_field_without_an_equivalent_in_chat_request_is_refused(
    document: dict[str, Any], parameter: str | None
) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        messages.read_request({"messages": HELLO, **document})
    assert parameter in {None, refused.value.parameter}


def written(*chat_messages: Message, **options: Any) -> dict[str, Any]:
    document = messages.write_request(ChatRequest(chat_messages, Options(**options)), "claude-opus-5")
    sdk_request = TypeAdapter(message_create_params.MessageCreateParamsNonStreaming)
    iterate_all(sdk_request.validate_python(document | {"max_tokens": 1}))
    return document


def iterate_all(value: Any) -> None:
    """Iterates over everything in a value: the SDK's types validate a list only as it is iterated."""
    if isinstance(value, dict):
        for item in value.values():
            iterate_all(item)
    elif not isinstance(value, str) and hasattr(value, "__iter__"):
        for item in value:
            iterate_all(item)


def test_tool_results_are_written_first_in_one_user_message() -> None:
    """Also if they are in several messages: the API requires each result in the message after its call."""
    calls = (ToolCall("a", "f", "{}"), ToolCall("b", "f", ""))
    document = written(
        Message("user", "go"),
        Message("assistant", ("", *calls)),
        Message("user", (ToolResult("a", "1"),)),
        Message("user", "and"),
        Message("user", (ToolResult("b", "2"),)),
    )
    assert [message["role"] for message in document["messages"]] == ["user", "assistant", "user"]
    assert [block["type"] for block in document["messages"][1]["content"]] == ["tool_use", "tool_use"]
    assert [block["type"] for block in document["messages"][2]["content"]] == ["tool_result", "tool_result", "text"]


def test_system_messages_are_written_in_the_system_field() -> None:
    assert written(Message("system", "be kind"), Message("user", "hi"))["system"] == "be kind"
    both = written(Message("system", "be kind"), Message("user", "hi"), Message("system", ("and", "brief")))
    assert [block["text"] for block in both["system"]] == ["be kind", "and", "brief"]
    assert both["messages"] == [{"role": "user", "content": "hi"}]


def test_json_is_requested_by_an_instruction_and_a_schema_by_output_config() -> None:
    assert written(Message("user", "hi"), json=True)["system"] == JSON_INSTRUCTION
    schema = written(Message("user", "hi"), schema=SCHEMA, schema_name="place")
    assert schema["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}}
    assert "system" not in schema


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        ("auto", None, {"type": "auto"}),
        ("required", None, {"type": "any"}),
        ("none", False, {"type": "none"}),
        ("tool:f", True, {"type": "tool", "name": "f", "disable_parallel_tool_use": False}),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
    ],
)
def test_a_tool_choice_is_written(choice: str | None, parallel: bool | None, expected: dict[str, Any]) -> None:
    tools = (Tool("f", None, None),)
    document = written(Message("user", "hi"), tools=tools, tool_choice=choice, parallel_tools=parallel)
    assert document["tool_choice"] == expected


def test_a_tool_choice_without_tools_is_not_written() -> None:
    assert "tool_choice" not in written(Message("user", "hi"), tool_choice="auto", parallel_tools=True)


@pytest.mark.parametrize(("effort", "expected"), [("minimal", "low"), ("high", "high"), ("xhigh", "xhigh")])
def test_an_effort_is_written_in_output_config(effort: str, expected: str) -> None:
    assert written(Message("user", "hi"), effort=effort)["output_config"] == {"effort": expected}


def test_the_effort_none_disables_thinking() -> None:
    assert written(Message("user", "hi"), effort="none")["thinking"] == {"type": "disabled"}


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"temperature": 1.1}, "temperature"),
        ({"seed": 1}, "seed"),
        ({"presence_penalty": 0.1}, "presence_penalty"),
        ({"frequency_penalty": -0.1}, "frequency_penalty"),
        ({"effort": "enormous"}, "reasoning_effort"),
        ({"tool_choice": "perhaps", "tools": (Tool("f", None, None),)}, "tool_choice"),
        ({"tools": (Tool("f", None, None), Tool("sql", None, None, custom=True))}, "tools"),
    ],
)
def test_an_option_that_the_format_cannot_express_is_refused(options: dict[str, Any], parameter: str) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        written(Message("user", "hi"), **options)
    assert refused.value.parameter == parameter


def test_penalties_of_zero_are_not_written() -> None:
    document = written(Message("user", "hi"), presence_penalty=0.0, frequency_penalty=0.0, temperature=1.0)
    assert document == {
        "model": "claude-opus-5",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 1,
    }


@pytest.mark.parametrize("url", ["http://example.com/a.png", "data:image/tiff;base64,AA", "data:,hello", "file:///etc"])
def test_an_image_must_be_an_https_url_or_of_a_supported_type(url: str) -> None:
    with pytest.raises(UnsupportedParameter):
        written(Message("user", (Image(url),)))


def test_a_call_of_a_custom_tool_is_refused() -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        written(Message("user", "hi"), Message("assistant", (ToolCall("a", "sql", "{}", custom=True),)))
    assert refused.value.parameter == "messages.tool_calls"


words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
names = st.text("abc_", min_size=1, max_size=5)
arguments = st.dictionaries(names, st.integers(-9, 9) | words | st.none(), max_size=2)
images = st.sampled_from([Image(PNG), Image("https://example.com/a.png"), Image("data:image/webp;base64,AAAA")])
written_arguments = arguments.map(lambda given: msgspec.json.encode(given).decode())
calls = st.builds(ToolCall, names, names, written_arguments, st.just(False), st.just(""))
results = st.lists(st.builds(ToolResult, names, words, st.lists(images, max_size=2).map(tuple)), max_size=2)
user_contents = words | st.tuples(results, st.lists(words | images, min_size=1, max_size=2)).map(
    lambda both: (*both[0], *both[1])
)
model_contents = words | st.lists(words | calls, min_size=1, max_size=3).map(tuple)


def call_ids(dialogue: list[Any]) -> list[str]:
    return [part.id for _, model in dialogue for part in model if isinstance(part, ToolCall)]


dialogues = st.lists(st.tuples(user_contents, model_contents), min_size=1, max_size=3).filter(
    lambda dialogue: len(set(call_ids(dialogue))) == len(call_ids(dialogue))
)
tools = st.lists(
    st.builds(Tool, names, st.none() | words, st.just(SCHEMA), st.none() | st.booleans(), st.just(False), st.none()),
    min_size=1,
    max_size=2,
)


def make_options(fields: dict[str, Any]) -> Options:
    return Options(**fields)


options = st.fixed_dictionaries(
    {
        "temperature": st.none() | st.floats(0, 1),
        "top_p": st.none() | st.floats(0, 1),
        "stop": st.lists(words, max_size=2).map(tuple),
        "effort": st.sampled_from([None, "low", "medium", "high", "xhigh", "max"]),
        "tools": tools.map(tuple),
        "tool_choice": st.sampled_from(["auto", "required", "tool:f"]),
        "parallel_tools": st.none() | st.booleans(),
        "schema": st.none() | st.just(SCHEMA),
    }
).map(make_options)
systems = st.lists(words | st.lists(words, min_size=1, max_size=2).map(tuple), max_size=1)


@given(dialogues, options, systems)
def test_a_written_request_is_read_back_unchanged(dialogue: list[Any], options: Options, systems: list[Any]) -> None:
    chat_messages = [Message("system", system) for system in systems]
    for user, model in dialogue:
        chat_messages += [Message("user", user), Message("assistant", model)]
    request = ChatRequest(tuple(chat_messages), options)
    document = orjson.loads(orjson.dumps(messages.write_request(request, "m")))
    assert messages.read_request(document) == request
