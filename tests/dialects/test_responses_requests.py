"""Requests in the responses format, read as a ChatRequest and written from one."""

from itertools import chain
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses.response_input_param import ResponseInputParam
from openai.types.responses.tool_param import ToolParam
from pydantic import TypeAdapter

from support.depth import examples
from tollkeeper.chat import ChatRequest, Grammar, Image, Message, Options, Reasoning, Tool, ToolCall, ToolResult
from tollkeeper.dialects.parameters import filter_parameters
from tollkeeper.dialects.responses import PARAMETERS, input_size_of, read_request, write_request
from tollkeeper.errors import UnsupportedParameter

INLINE_IMAGE = "data:image/png;base64,iVBORw0KGgo="


def fields_of(document: dict[str, Any]) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(orjson.dumps(document), type=dict[str, msgspec.Raw])


def test_instructions_are_read_as_the_first_system_message() -> None:
    request = read_request({"instructions": "Be kind.", "input": [{"role": "developer", "content": "In verse."}]})
    assert request.messages == (Message("system", "Be kind."), Message("system", "In verse."))


def test_the_output_items_of_an_earlier_answer_are_read() -> None:
    """Tool calls and reasoning join the message beside them, and the results of the calls are one message."""
    output_text = {"type": "output_text", "text": "Let me see.", "annotations": [], "logprobs": []}
    request = read_request(
        {
            "input": [
                {"role": "user", "content": "Rain?"},
                {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
                {
                    "id": "msg_1",
                    "type": "message",
                    "role": "assistant",
                    "status": "completed",
                    "content": [output_text],
                },
                {"id": "fc_1", "type": "function_call", "call_id": "a", "name": "sky", "arguments": '{"at":"Ulm"}'},
                {"id": "fc_2", "type": "function_call", "call_id": "b", "name": "sky", "arguments": "{"},
                {"type": "function_call_output", "call_id": "a", "output": "wet"},
                {
                    "type": "function_call_output",
                    "call_id": "b",
                    "output": [{"type": "input_text", "text": "d"}, {"type": "input_text", "text": "ry"}],
                },
                {"role": "user", "content": "So?"},
            ]
        }
    )
    assert request.messages == (
        Message("user", "Rain?"),
        Message(
            "assistant",
            (Reasoning("Hm."), "Let me see.", ToolCall("a", "sky", '{"at":"Ulm"}'), ToolCall("b", "sky", "{")),
        ),
        Message("user", (ToolResult("a", "wet"), ToolResult("b", "d\nry"))),
        Message("user", "So?"),
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "custom", "name": "sql", "format": {"type": "image"}}]),
        ("tools", [{"type": "custom", "name": "sql", "format": {"type": "grammar"}}]),
        ("tool_choice", {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}),
        ("include", ["message.output_text.logprobs"]),
        ("top_logprobs", 3),
    ],
)
def test_a_field_without_an_equivalent_is_passed_on_but_not_translated(name: str, value: Any) -> None:
    document = {"input": "Hi", name: value}
    assert input_size_of(fields_of(document)).messages == 1
    with pytest.raises(UnsupportedParameter) as raised:
        read_request(document)
    assert raised.value.parameter == name


@pytest.mark.parametrize("option", [{"stop": ("x",)}, {"seed": 7}, {"presence_penalty": 0.5}])
def test_an_option_that_the_format_cannot_express_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedParameter) as raised:
        write_request(ChatRequest((Message("user", "Hi"),), Options(**option)), "m")
    assert raised.value.parameter == next(iter(option))


@pytest.mark.parametrize("strict", [True, False, None])
def test_the_strictness_of_a_schema_is_written_as_requested(strict: bool | None) -> None:
    request = ChatRequest((Message("user", "Hi"),), Options(schema={"type": "object"}, schema_strict=strict))
    expected = {} if strict is None else {"strict": strict}
    assert write_request(request, "m")["text"] == {
        "format": {"type": "json_schema", "name": "answer", "schema": {"type": "object"}, **expected}
    }


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
images = st.builds(Image, st.just(INLINE_IMAGE) | st.just("https://example.org/1.png"), st.sampled_from([None, "low"]))
calls = st.builds(ToolCall, texts, texts, texts, st.booleans(), st.just(""))
results = st.builds(
    ToolResult, texts, st.text(st.characters(codec="utf-8"), max_size=8), st.lists(images, max_size=2).map(tuple)
)


def tuples(parts: st.SearchStrategy[Any], *, min_size: int = 1) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(parts, min_size=min_size, max_size=3).map(tuple)


def dialogues(with_calls: bool) -> st.SearchStrategy[list[Message]]:
    """A message of the user and one of the model; with `with_calls`, the model calls tools and results follow."""
    user = st.builds(Message, st.just("user"), texts | tuples(texts | images))
    system = st.builds(Message, st.just("system"), texts | tuples(texts))
    if not with_calls:
        return st.tuples(user | system, st.builds(Message, st.just("assistant"), texts | tuples(texts))).map(list)
    called = st.tuples(tuples(texts, min_size=0), tuples(calls)).map(
        lambda parts: Message("assistant", parts[0] + parts[1])
    )
    return st.tuples(user, called, st.builds(Message, st.just("user"), tuples(results))).map(list)


schemas = st.just({"type": "object", "properties": {"a": {"type": "string"}}})
booleans = st.none() | st.booleans()
grammars = st.none() | st.builds(Grammar, st.sampled_from(["lark", "regex"]), texts)
tools = st.builds(Tool, texts, st.none() | texts, st.none() | schemas, booleans, st.just(False), st.none()) | st.builds(
    Tool, texts, st.none() | texts, st.none(), st.none(), st.just(True), grammars
)
options = st.builds(
    lambda **fields: Options(**fields),
    temperature=st.none() | st.floats(0, 2),
    top_p=st.none() | st.floats(0, 1),
    effort=st.sampled_from([None, "low", "high"]),
    tools=tuples(tools, min_size=0),
    tool_choice=st.sampled_from([None, "auto", "none", "required", "tool:sky"]),
    parallel_tools=booleans,
)
formats: st.SearchStrategy[dict[str, Any]] = st.sampled_from([{}, {"json": True}]) | st.fixed_dictionaries(
    {
        "schema": schemas,
        "schema_name": st.just("weather"),
        "schema_description": st.none() | texts,
        "schema_strict": booleans,
    }
)
requests = st.builds(
    lambda messages, options, form: ChatRequest(tuple(chain(*messages)), options._replace(**form)),
    st.lists(st.booleans().flatmap(dialogues), min_size=1, max_size=3),
    options,
    formats,
)


@settings(max_examples=examples(150), deadline=None)
@given(requests)
def test_a_written_request_is_read_back_unchanged(request: ChatRequest) -> None:
    written = write_request(request, "m")
    assert read_request(orjson.loads(orjson.dumps(written))) == request


@settings(max_examples=examples(50), deadline=None)
@given(requests)
def test_a_written_request_has_only_accepted_parameters(request: ChatRequest) -> None:
    fields = fields_of(write_request(request, "m"))
    assert set(filter_parameters(fields, PARAMETERS)) == set(fields) - {"model"}
    assert input_size_of(fields).images == len(request.images)


def test_a_written_request_is_valid_to_the_sdk() -> None:
    request = ChatRequest(
        (
            Message("system", "Be kind."),
            Message("user", ("Rain?", Image(INLINE_IMAGE, "low"))),
            Message("assistant", (ToolCall("a", "sky", "{}"),)),
            Message("user", (ToolResult("a", "wet"),)),
            Message("assistant", "Yes."),
        ),
        Options(tools=(Tool("sky", "Looks up.", {"type": "object"}, True),)),
    )
    written = write_request(request, "m")
    TypeAdapter(ResponseInputParam).validate_python(written["input"])
    TypeAdapter(list[ToolParam]).validate_python(written["tools"])
