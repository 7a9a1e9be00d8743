"""Requests in the chat completions format, read as a ChatRequest and written from one."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import completion_create_params
from pydantic import TypeAdapter

from tollkeeper.chat import ChatRequest, Grammar, Image, Message, Options, Tool, ToolCall, ToolResult
from tollkeeper.dialects import chat
from tollkeeper.errors import InvalidRequest, UnsupportedParameter

_sdk_request = TypeAdapter(completion_create_params.CompletionCreateParamsNonStreaming)


def read(*messages: dict[str, Any], **parameters: Any) -> ChatRequest:
    return chat.read_request({"messages": list(messages), **parameters})


def read_message(*parts: dict[str, Any], role: str = "user", **fields: Any) -> Message:
    [message] = read({"role": role, "content": list(parts), **fields}).messages
    return message


USER = {"role": "user", "content": "hi"}


def test_each_role_is_mapped_to_one_of_ours() -> None:
    roles = ("system", "developer", "user", "assistant")
    request = read(*({"role": role, "content": role} for role in roles))
    assert request.messages == (
        Message("system", "system"),
        Message("system", "developer"),
        Message("user", "user"),
        Message("assistant", "assistant"),
    )


def test_the_parts_of_a_message_keep_their_order() -> None:
    text = {"type": "text", "text": "look"}
    picture = {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}}
    assert read_message(picture, text) == Message("user", (Image("https://example.com/a.png", "low"), "look"))
    assert read_message(text) == Message("user", "look")
    assert read_message(text, text) == Message("user", ("look", "look"))


def test_a_refusal_in_an_earlier_message_is_read_as_text() -> None:
    assert read_message({"type": "refusal", "refusal": "No."}, role="assistant") == Message("assistant", "No.")
    [message] = read({"role": "assistant", "content": None, "refusal": "No."}).messages
    assert message == Message("assistant", "No.")


def test_tool_calls_and_tool_results_are_read() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    request = read(
        {"role": "assistant", "content": "wait", "tool_calls": [call]},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
        {
            "role": "tool",
            "tool_call_id": "c1",
            "content": [{"type": "text", "text": "4"}, {"type": "text", "text": "2"}],
        },
    )
    assert request.messages == (
        Message("assistant", ("wait", ToolCall("c1", "f", "{}"))),
        Message("assistant", (ToolCall("c1", "f", "{}"),)),
        Message("user", (ToolResult("c1", "42"),)),
        Message("user", (ToolResult("c1", "4\n2"),)),
    )


def test_every_option_is_read() -> None:
    schema = {"type": "object"}
    request = read(
        USER,
        temperature=0.5,
        top_p=1,
        stop="END",
        seed=7,
        presence_penalty=1.0,
        frequency_penalty=-1.0,
        reasoning_effort="low",
        parallel_tool_calls=False,
        tools=[{"type": "function", "function": {"name": "f", "description": "d", "parameters": {}, "strict": True}}],
        tool_choice={"type": "function", "function": {"name": "f"}},
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "n", "description": "about", "schema": schema, "strict": False},
        },
    )
    assert request.options == Options(
        temperature=0.5,
        top_p=1.0,
        stop=("END",),
        seed=7,
        presence_penalty=1.0,
        frequency_penalty=-1.0,
        effort="low",
        tools=(Tool("f", "d", {}, strict=True),),
        tool_choice="tool:f",
        parallel_tools=False,
        schema=schema,
        schema_name="n",
        schema_description="about",
        schema_strict=False,
    )
    assert read(USER, response_format={"type": "json_object"}).options == Options(json=True)
    assert read(USER, response_format={"type": "text"}, stop=["a", "b"]).options == Options(stop=("a", "b"))
    assert [read(USER, tool_choice=one).options.tool_choice for one in ("auto", "none", "required")] == [
        "auto",
        "none",
        "required",
    ]


@pytest.mark.parametrize(
    ("document", "parameter"),
    [
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"verbosity": "low"}, "verbosity"),
        ({"tools": [{"type": "custom", "custom": {"name": "c", "format": {"type": "image"}}}]}, "tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "c", "format": {"type": "grammar"}}}]}, "tools"),
        ({"tools": [{"type": "custom"}]}, "tools"),
        ({"tool_choice": {"type": "custom", "custom": "c"}}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": "f"}}, "tool_choice"),
        ({"tool_choice": "whatever"}, "tool_choice"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "c", "type": "custom"}]}]}, "messages.tool_calls"),
    ],
)
def test_a_field_without_an_equivalent_in_chat_request_is_refused(document: dict[str, Any], parameter: str) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        chat.read_request({"messages": [USER]} | document)
    assert refused.value.parameter == parameter


@pytest.mark.parametrize(
    "document",
    [
        {"temperature": "hot"},
        {"stop": 5},
        {"messages": [{"role": "tool", "content": "42"}]},
        {"messages": [{"role": "function", "content": "42"}]},
        {"messages": "hi"},
        {"messages": [{"content": "hi"}]},
        {"tools": [{"type": "function", "function": {"description": "no name"}}]},
    ],
)
def test_a_malformed_request_is_invalid(document: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        chat.read_request({"messages": [USER]} | document)


texts = st.text(min_size=1, max_size=5)
tool_calls = st.builds(ToolCall, texts, texts, texts, st.booleans(), st.just(""))
images = st.builds(Image, st.just("https://example.com/a.png"), st.sampled_from([None, "low", "high"]))
with_images = st.lists(texts | images, min_size=1, max_size=3).flatmap(
    lambda parts: images.map(lambda image: (*parts, image))
)
users = texts | with_images
assistants = (
    texts
    | st.lists(tool_calls, min_size=1, max_size=2).map(tuple)
    | st.builds(lambda text, call: (text, call), texts, tool_calls)
)
chat_messages = (
    st.builds(Message, st.just("user"), users)
    | st.builds(Message, st.just("assistant"), assistants)
    | st.builds(Message, st.just("system"), texts)
    | st.builds(
        Message, st.just("user"), st.builds(ToolResult, texts, texts, st.just(())).map(lambda result: (result,))
    )
)
schemas = st.just({"type": "object", "properties": {"a": {"type": "string"}}})
booleans = st.none() | st.booleans()
grammars = st.none() | st.builds(Grammar, st.sampled_from(["lark", "regex"]), texts)
tools = st.builds(Tool, texts, st.none() | texts, st.none() | schemas, booleans, st.just(False), st.none()) | st.builds(
    Tool, texts, st.none() | texts, st.none(), st.none(), st.just(True), grammars
)
numbers = st.none() | st.floats(0, 1)
plain: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "temperature": numbers,
        "top_p": numbers,
        "presence_penalty": numbers,
        "frequency_penalty": numbers,
        "seed": st.none() | st.integers(0, 99),
        "stop": st.lists(texts, max_size=2).map(tuple),
        "effort": st.sampled_from([None, "low", "high"]),
    }
)
with_tools = st.fixed_dictionaries(
    {
        "tools": st.lists(tools, min_size=1, max_size=2).map(tuple),
        "tool_choice": st.sampled_from([None, "auto", "none", "required", "tool:f"]),
        "parallel_tools": booleans,
    }
)
formats = (
    st.just({"json": True})
    | st.fixed_dictionaries(
        {
            "schema": schemas,
            "schema_name": texts,
            "schema_description": st.none() | texts,
            "schema_strict": booleans,
        }
    )
    | st.just(dict[str, Any]())
)
options = st.builds(lambda *some: Options(**{k: v for one in some for k, v in one.items()}), plain, with_tools, formats)


@given(st.lists(chat_messages, min_size=1, max_size=4).map(tuple), options | plain.map(lambda some: Options(**some)))
def test_what_is_written_is_valid_to_the_sdk_and_read_back_unchanged(
    messages: tuple[Message, ...], options: Options
) -> None:
    request = ChatRequest(messages, options)
    written = chat.write_request(request, "m")
    _sdk_request.validate_python(written)
    assert set(written) <= set(chat.PARAMETERS)
    assert chat.read_request(written) == request


def test_text_between_tool_results_is_written_as_a_message_of_its_own() -> None:
    message = Message("user", (ToolResult("c1", "1"), "and", ToolResult("c2", "2")))
    assert chat.write_request(ChatRequest((message,)), "m")["messages"] == [
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "tool", "tool_call_id": "c2", "content": "2"},
        {"role": "user", "content": "and"},
    ]


def test_a_schema_gets_a_default_name_and_tool_options_without_tools_are_left_out() -> None:
    options = Options(schema={"type": "object"}, tool_choice="auto", parallel_tools=True)
    written = chat.write_request(ChatRequest((Message("user", "hi"),), options), "m")
    assert written["response_format"]["json_schema"] == {"name": "answer", "schema": {"type": "object"}}
    assert written.keys() == {"model", "messages", "response_format"}


def test_several_texts_are_joined_by_line_breaks() -> None:
    written = chat.write_request(ChatRequest((Message("user", ("one", "", "two")),)), "m")
    assert written["messages"] == [{"role": "user", "content": "one\ntwo"}]


def test_an_empty_message_is_written() -> None:
    assert chat.write_request(ChatRequest((Message("user", ""),)), "m")["messages"] == [{"role": "user", "content": ""}]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
parts = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "refusal", "file"]) | json_values},
    optional={"text": json_values, "refusal": json_values, "image_url": json_values | st.just({"url": "data:,"})},
)
calls = st.fixed_dictionaries(
    {"id": st.just("c") | json_values},
    optional={"type": json_values, "function": json_values | st.fixed_dictionaries({"name": st.just("f")})},
)
malformed_messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool"]) | json_values},
    optional={
        "content": st.text(max_size=3) | st.lists(parts, max_size=2) | json_values,
        "tool_calls": st.lists(calls, max_size=2) | json_values,
        "tool_call_id": st.just("c") | json_values,
        "refusal": json_values,
    },
)


@given(
    st.dictionaries(st.sampled_from(sorted(chat.PARAMETERS)), json_values, max_size=4),
    st.lists(malformed_messages, max_size=3) | json_values,
)
def test_a_random_request_is_read_or_raises_only_the_documented_errors(document: dict[str, Any], messages: Any) -> None:
    try:
        request = chat.read_request(document | {"messages": messages})
    except (InvalidRequest, UnsupportedParameter):
        return
    assert len(request.messages) == len(messages)
    assert all(isinstance(text, str) for text in request.texts)
