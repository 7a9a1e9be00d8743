"""Ollama's format: requests written, answers and streams read."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollkeeper.chat import (
    ChatRequest,
    Completion,
    Delta,
    Finish,
    Image,
    InconsistentUsage,
    Message,
    Options,
    ReasoningDelta,
    TextDelta,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolResult,
    Usage,
)
from tollkeeper.dialects import ollama
from tollkeeper.dialects.answer_checks import MalformedAnswer, ProviderSentError
from tollkeeper.errors import UnsupportedParameter

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
COUNTS: dict[str, Any] = {"prompt_eval_count": 26, "eval_count": 7}


def written(*messages: Message, **options: Any) -> dict[str, Any]:
    return ollama.write_request(ChatRequest(messages, Options(**options)), "llama3.2")


def line(done: bool = False, message: dict[str, Any] | None = None, **fields: Any) -> bytes:
    assistant_message = {"role": "assistant", "content": "", **(message or {})}
    return orjson.dumps(
        {"model": "m", "created_at": "2025-01-01", "message": assistant_message, "done": done, **fields}
    )


def test_a_conversation_is_written_with_tool_results_that_name_their_tool() -> None:
    document = written(
        Message("system", "be brief"),
        Message("user", ("look", "here", Image("data:image/png;base64,aGk="))),
        Message("assistant", ("well", ToolCall("c1", "weather", '{"city":"Ulm"}'))),
        Message("user", (ToolResult("c1", "rain"), ToolResult("c2", "?"), "so?")),
        Message("assistant", ""),
    )
    assert document == {
        "model": "llama3.2",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "look\nhere", "images": ["aGk="]},
            {
                "role": "assistant",
                "content": "well",
                "tool_calls": [{"id": "c1", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}],
            },
            {"role": "tool", "content": "rain", "tool_call_id": "c1", "tool_name": "weather"},
            {"role": "tool", "content": "?", "tool_call_id": "c2"},
            {"role": "user", "content": "so?"},
            {"role": "assistant", "content": ""},
        ],
        "options": {},
    }


def test_sampling_parameters_are_written_in_options_which_is_the_last_field() -> None:
    document = written(Message("user", "hi"), temperature=0.5, top_p=0.9, seed=3, stop=("END",), presence_penalty=0.1)
    options = {"temperature": 0.5, "top_p": 0.9, "seed": 3, "presence_penalty": 0.1, "stop": ["END"]}
    assert document["options"] == options
    assert list(document)[-1] == "options"


def test_tools_are_written_as_functions() -> None:
    tools = (Tool("weather", "tells", SCHEMA, strict=True), Tool("now", None, None))
    first, second = written(Message("user", "hi"), tools=tools, tool_choice="auto", parallel_tools=True)["tools"]
    assert first == {
        "type": "function",
        "function": {"name": "weather", "description": "tells", "parameters": SCHEMA},
    }
    assert second["function"] == {"name": "now", "parameters": {"type": "object", "properties": {}}}
    assert "tools" not in written(Message("user", "hi"), tools=tools, tool_choice="none")


@pytest.mark.parametrize(
    ("choice", "offered"),
    [(None, ["f", "g"]), ("auto", ["f", "g"]), ("required", ["f", "g"]), ("tool:g", ["g"])],
)
@pytest.mark.parametrize("parallel", [None, True, False])
def test_a_tool_choice_selects_the_tools_that_are_written(
    choice: str | None, offered: list[str], *, parallel: bool | None
) -> None:
    """The format has no field for a tool choice or for parallel calls."""
    tools = (Tool("f", None, None), Tool("g", None, None))
    document = written(Message("user", "hi"), tools=tools, tool_choice=choice, parallel_tools=parallel)
    assert [tool["function"]["name"] for tool in document["tools"]] == offered
    assert set(document) == {"model", "messages", "tools", "options"}


def test_a_tool_choice_without_tools_writes_none() -> None:
    for choice in ("required", "tool:f"):
        assert "tools" not in written(Message("user", "hi"), tool_choice=choice, parallel_tools=False)


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        ({"json": True}, "format", "json"),
        ({"schema": SCHEMA, "json": True}, "format", SCHEMA),
        ({"effort": "none"}, "think", False),
        ({"effort": "minimal"}, "think", "low"),
        ({"effort": "medium"}, "think", "medium"),
    ],
)
def test_the_output_format_and_the_effort_are_written(options: dict[str, Any], field: str, value: Any) -> None:
    assert written(Message("user", "hi"), **options)[field] == value


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"tool_choice": "tool:g", "tools": (Tool("f", None, None),)}, "tool_choice"),
        ({"effort": "enormous"}, "reasoning_effort"),
        ({"tools": (Tool("sql", None, None, custom=True),)}, "tools"),
        ({"tools": (Tool("sql", None, None, custom=True),), "tool_choice": "none"}, "tools"),
    ],
)
def test_an_option_that_the_format_cannot_express_is_refused(options: dict[str, Any], parameter: str) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        written(Message("user", "hi"), **options)
    assert refused.value.parameter == parameter


@pytest.mark.parametrize("url", ["https://example.com/a.png", "data:text/plain;base64,aGk=", "data:,hi", "aGk="])
def test_an_image_must_be_inline(url: str) -> None:
    with pytest.raises(UnsupportedParameter):
        written(Message("user", (Image(url),)))


def test_every_part_of_an_answer_is_read() -> None:
    calls = [{"id": "c9", "function": {"name": "f", "arguments": {"a": 1}}}, {"function": {"name": "g"}}]
    message = {"content": "Hi", "thinking": "hm", "tool_calls": calls}
    completion = ollama.read_answer(line(True, message, done_reason="stop", **COUNTS))
    made_id = completion.tool_calls[1].id
    assert completion == Completion(
        "Hi",
        "tool_calls",
        Usage(26, 7),
        (ToolCall("c9", "f", '{"a":1}'), ToolCall(made_id, "g", "{}")),
        reasoning="hm",
    )


@pytest.mark.parametrize(
    "counts",
    [
        {},
        {"eval_count": 7},
        {"prompt_eval_count": 26},
        {"prompt_eval_count": -1, "eval_count": 7},
        {"prompt_eval_count": 26.5, "eval_count": 7},
        {"prompt_eval_count": 26, "eval_count": True},
        {"prompt_eval_count": 2**53, "eval_count": 7},
    ],
)
def test_without_both_token_counts_there_is_no_usage(counts: dict[str, Any]) -> None:
    """Ollama does not report the count of a prompt that it has cached."""
    assert not isinstance(ollama.read_answer(line(True, **counts)).usage, Usage)


@pytest.mark.parametrize(("theirs", "ours"), [("stop", "stop"), ("length", "length"), ("", "stop"), (None, "stop")])
def test_the_finish_reason_is_read(theirs: str | None, ours: str) -> None:
    assert ollama.read_answer(line(True, done_reason=theirs)).finish_reason == ours


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"done":true}',
        line(False),
        b'{"done":true,"message":5}',
        b'{"done":true,"message":{"content":"\xff"}}',
        b'{"done":true,"message":{},"eval_count":' + b"[" * 9999,
    ],
)
def test_a_body_that_is_no_answer_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        ollama.read_answer(body)


def test_an_error_with_status_200_is_a_failure_with_the_usage_that_it_reports() -> None:
    for body, usage in ((b'{"error":"secret"}', None), (b'{"error":"x","prompt_eval_count":9,"eval_count":2}', (9, 2))):
        with pytest.raises(ProviderSentError) as raised:
            ollama.read_answer(body)
        assert raised.value.usage == (usage and Usage(*usage))


def read_all(*lines: bytes) -> list[Delta]:
    reader = ollama.StreamReader()
    return [delta for one in lines for delta in reader.read(one)]


def test_a_stream_is_read_as_deltas() -> None:
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    deltas = read_all(
        line(message={"thinking": "hm"}),
        line(message={"content": "Hi"}),
        line(message={"content": ""}),
        line(message={"tool_calls": [call]}),
        line(message={"tool_calls": [call | {"id": "c9"}]}),
        line(True, done_reason="stop", **COUNTS),
    )
    (made_id,) = {one.id for one in deltas if isinstance(one, ToolCallDelta)} - {"c9"}
    assert deltas == [
        ReasoningDelta("hm"),
        TextDelta("Hi"),
        ToolCallDelta(0, made_id, "f", '{"a":1}'),
        ToolCallDelta(1, "c9", "f", '{"a":1}'),
        Finish("tool_calls"),
        Usage(26, 7),
    ]


def test_the_last_line_may_have_no_message() -> None:
    assert read_all(b'{"done":true,"done_reason":"length","eval_count":3}') == [
        Finish("length"),
        InconsistentUsage(None, 3),
    ]


def test_only_the_line_that_is_done_is_last() -> None:
    reader = ollama.StreamReader()
    reader.read(line(message={"content": "Hi"}))
    assert (reader.last, reader.finished) == (False, False)
    reader.read(line(True))
    assert (reader.last, reader.finished) == (True, True)


def test_an_error_line_raises_without_its_text() -> None:
    with pytest.raises(ProviderSentError) as raised:
        ollama.StreamReader().read(b'{"error":"secret"}')
    assert "secret" not in repr(raised.value)


@pytest.mark.parametrize(
    "data", [b"", b"null", b"{", b"[1]", b'{"detail":"secret"}', b"\xff", b"data: {}", b"[" * 9999]
)
def test_a_line_that_cannot_be_decoded_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        ollama.StreamReader().read(data)


scalars = st.none() | st.booleans() | st.integers(-5, 2**40) | st.text(max_size=3) | st.lists(st.none(), max_size=1)
functions = st.dictionaries(st.sampled_from(["name", "arguments"]), scalars)
calls = st.dictionaries(st.sampled_from(["id", "function"]), functions | scalars)
replies = st.dictionaries(st.sampled_from(["content", "thinking", "tool_calls"]), st.lists(calls, max_size=2) | scalars)
lines = st.dictionaries(
    st.sampled_from(["message", "done", "done_reason", "eval_count", "prompt_eval_count", "error"]), replies | scalars
)


@given(st.lists(lines, max_size=5))
def test_a_random_stream_raises_only_the_documented_errors(documents: list[dict[str, Any]]) -> None:
    reader = ollama.StreamReader()
    for document in documents:
        try:
            deltas = reader.read(orjson.dumps(document))
        except (MalformedAnswer, ProviderSentError):
            continue
        assert all(isinstance(delta.text, str) for delta in deltas if isinstance(delta, TextDelta | ReasoningDelta))


@given(lines)
def test_a_random_answer_raises_only_the_documented_errors(document: dict[str, Any]) -> None:
    body = orjson.dumps(document)
    try:
        completion = ollama.read_answer(body)
    except (MalformedAnswer, ProviderSentError):
        return
    assert document["done"] is True
    assert isinstance(completion.text, str)
