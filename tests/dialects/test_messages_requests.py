"""The messages wire: what callers ask in our nouns, and how our questions look on it."""

from typing import Any

import msgspec
import orjson
import pytest
from anthropic.types import message_create_params
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tollkeeper.chat import ChatRequest, Image, Message, Options, Tool, ToolCall, ToolResult
from tollkeeper.dialects import messages
from tollkeeper.dialects.messages.request_writer import JSON_INSTRUCTION
from tollkeeper.errors import InvalidRequest, UnsupportedParameter

PNG = "data:image/png;base64,aGVsbG8="
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"name": "weather", "input_schema": SCHEMA}
HELLO = [{"role": "user", "content": "hello"}]


def asked(*blocks: dict[str, Any], role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": list(blocks)}]


def test_a_whole_request_is_read_into_our_nouns() -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}}
    cached = {"type": "text", "text": "look", "cache_control": {"type": "ephemeral"}}
    call = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Ulm"}}
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "rain"}]}
    request = messages.read_request(
        {
            "model": "claude-opus-5",
            "max_tokens": 100,
            "system": [{"type": "text", "text": "be kind"}],
            "messages": [*asked(cached, picture), *asked(thought, call, role="assistant"), *asked(result)],
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
            Message("assistant", (ToolCall("t1", "weather", '{"city":"Ulm"}'),)),
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
        ({"messages": asked({"type": "search_result", "source": "a", "title": "b", "content": []})}, None),
        ({"messages": asked({"type": "document"})}, None),
        ({"tools": [TOOL | {"input_examples": [{"city": "Ulm"}]}]}, "tools"),
    ],
)
def test_what_our_nouns_cannot_say_is_refused(document: dict[str, Any], parameter: str | None) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        messages.read_request({"messages": HELLO, **document})
    assert parameter in {None, refused.value.parameter}


def written(*turns: Message, **options: Any) -> dict[str, Any]:
    document = messages.write_request(ChatRequest(turns, Options(**options)), "claude-opus-5")
    whole = TypeAdapter(message_create_params.MessageCreateParamsNonStreaming)
    exhaust(whole.validate_python(document | {"max_tokens": 1}))
    return document


def exhaust(value: Any) -> None:
    """Walks everything in it: the client's types check a list only as far as it is read."""
    if isinstance(value, dict):
        for item in value.values():
            exhaust(item)
    elif not isinstance(value, str) and hasattr(value, "__iter__"):
        for item in value:
            exhaust(item)


def test_results_of_tools_are_one_turn_of_the_user_and_come_first() -> None:
    """However many turns they were: each call is answered in the very next turn."""
    calls = (ToolCall("a", "f", "{}"), ToolCall("b", "f", ""))
    document = written(
        Message("user", "go"),
        Message("assistant", ("", *calls)),
        Message("user", (ToolResult("a", "1"),)),
        Message("user", "and"),
        Message("user", (ToolResult("b", "2"),)),
    )
    assert [turn["role"] for turn in document["messages"]] == ["user", "assistant", "user"]
    assert [block["type"] for block in document["messages"][1]["content"]] == ["tool_use", "tool_use"]
    assert [block["type"] for block in document["messages"][2]["content"]] == ["tool_result", "tool_result", "text"]


def test_what_the_system_says_stands_apart() -> None:
    assert written(Message("system", "be kind"), Message("user", "hi"))["system"] == "be kind"
    both = written(Message("system", "be kind"), Message("user", "hi"), Message("system", ("and", "brief")))
    assert [block["text"] for block in both["system"]] == ["be kind", "and", "brief"]
    assert both["messages"] == [{"role": "user", "content": "hi"}]


def test_any_json_is_asked_in_words_and_a_schema_by_name() -> None:
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
def test_the_choice_of_tools_has_its_words(choice: str | None, parallel: bool | None, expected: dict[str, Any]) -> None:
    tools = (Tool("f", None, None),)
    said = written(Message("user", "hi"), tools=tools, tool_choice=choice, parallel_tools=parallel)
    assert said["tool_choice"] == expected


def test_a_choice_among_no_tools_is_not_said() -> None:
    assert "tool_choice" not in written(Message("user", "hi"), tool_choice="auto", parallel_tools=True)


@pytest.mark.parametrize(("effort", "expected"), [("minimal", "low"), ("high", "high"), ("xhigh", "xhigh")])
def test_effort_has_its_words(effort: str, expected: str) -> None:
    assert written(Message("user", "hi"), effort=effort)["output_config"] == {"effort": expected}


def test_no_effort_is_no_thinking() -> None:
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
def test_what_the_wire_cannot_say_is_refused(options: dict[str, Any], parameter: str) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        written(Message("user", "hi"), **options)
    assert refused.value.parameter == parameter


def test_a_penalty_of_nothing_needs_no_word() -> None:
    said = written(Message("user", "hi"), presence_penalty=0.0, frequency_penalty=0.0, temperature=1.0)
    assert said == {
        "model": "claude-opus-5",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 1,
    }


@pytest.mark.parametrize("url", ["http://example.com/a.png", "data:image/tiff;base64,AA", "data:,hello", "file:///etc"])
def test_a_picture_is_linked_safely_or_of_a_known_kind(url: str) -> None:
    with pytest.raises(UnsupportedParameter):
        written(Message("user", (Image(url),)))


def test_a_call_of_a_custom_tool_is_refused() -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        written(Message("user", "hi"), Message("assistant", (ToolCall("a", "sql", "{}", custom=True),)))
    assert refused.value.parameter == "messages.tool_calls"


@pytest.mark.parametrize("arguments", ["{", "[]", "null", "7", '{"a":1}{'])
def test_arguments_that_are_no_object_are_invalid(arguments: str) -> None:
    with pytest.raises(InvalidRequest):
        written(Message("assistant", (ToolCall("a", "f", arguments),)))


words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
names = st.text("abc_", min_size=1, max_size=5)
arguments = st.dictionaries(names, st.integers(-9, 9) | words | st.none(), max_size=2)
pictures = st.sampled_from([Image(PNG), Image("https://example.com/a.png"), Image("data:image/webp;base64,AAAA")])
written_arguments = arguments.map(lambda given: msgspec.json.encode(given).decode())
calls = st.builds(ToolCall, names, names, written_arguments, st.just(False))
results = st.lists(st.builds(ToolResult, names, words), max_size=2)
said_by_user = words | st.tuples(results, st.lists(words | pictures, min_size=1, max_size=2)).map(
    lambda both: (*both[0], *both[1])
)
said_by_model = words | st.lists(words | calls, min_size=1, max_size=3).map(tuple)
exchanges = st.lists(st.tuples(said_by_user, said_by_model), min_size=1, max_size=3)
tools = st.lists(
    st.builds(Tool, names, st.none() | words, st.just(SCHEMA), st.none() | st.booleans(), st.just(False), st.none()),
    min_size=1,
    max_size=2,
)


def made(chosen: dict[str, Any]) -> Options:
    return Options(**chosen)


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
).map(made)
systems = st.lists(words | st.lists(words, min_size=1, max_size=2).map(tuple), max_size=1)


@given(exchanges, options, systems)
def test_what_the_wire_can_say_comes_back_as_it_was(exchanges: list[Any], options: Options, systems: list[Any]) -> None:
    turns = [Message("system", system) for system in systems]
    for user, model in exchanges:
        turns += [Message("user", user), Message("assistant", model)]
    request = ChatRequest(tuple(turns), options)
    document = orjson.loads(orjson.dumps(messages.write_request(request, "m")))
    assert messages.read_request(document) == request
