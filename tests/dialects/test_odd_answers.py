"""Whole answers with values of unexpected types, with tool calls without ids, or with an unfit finish reason."""

import re
from typing import Any

import msgspec
import orjson
import pytest

from tollkeeper.chat import ChatRequest, Completion, Message, ToolCall, ToolResult, Usage
from tollkeeper.dialects import chat, completions, messages, ollama, responses
from tollkeeper.dialects.answer_checks import MalformedAnswer
from tollkeeper.dialects.lenient_decoding import decode_leniently
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.dialects.sse import Splitter

MADE_ID = re.compile(r"call_[0-9a-f]{24}")
FUNCTION = {"name": "f", "arguments": '{"x":1}'}
REPORTS = {"prompt_tokens": 10, "completion_tokens": 5}


class Part(msgspec.Struct):
    text: str | None = None
    size: int = 7


class Document(msgspec.Struct):
    part: Part | None = None
    parts: list[Part] | str | None = None
    extra: dict[str, Any] | None = None
    raw: msgspec.Raw = msgspec.Raw(b"{}")
    any: Any = None


def chat_answer(message: Any, finish_reason: Any = "stop", **fields: Any) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return orjson.dumps({"choices": [choice], "usage": REPORTS} | fields)


def messages_answer(*content: Any, stop_reason: Any = "end_turn", **fields: Any) -> bytes:
    usage = {"input_tokens": 10, "output_tokens": 5}
    return orjson.dumps({"type": "message", "content": content, "stop_reason": stop_reason, "usage": usage} | fields)


def responses_answer(*output: Any, **fields: Any) -> bytes:
    usage = {"input_tokens": 10, "output_tokens": 5}
    return orjson.dumps({"status": "completed", "output": output, "usage": usage} | fields)


def ollama_answer(**message: Any) -> bytes:
    return orjson.dumps({"message": message, "done": True, "prompt_eval_count": 10, "eval_count": 5})


def test_a_value_of_an_unexpected_type_is_read_as_absent() -> None:
    body = b'{"part":{"text":5,"size":null},"parts":[{"text":"a"},3],"extra":[],"raw":{"a":1},"any":[NaN]}'
    read = decode_leniently(body, Document)
    assert (read.part, read.parts, read.extra) == (Part(), [Part("a")], None)
    assert (bytes(read.raw), read.any) == (b'{"a":1}', [None])
    assert decode_leniently(b'{"part":[],"parts":"text","extra":{"a":true}}', Document) == Document(
        None, "text", {"a": True}
    )


def test_lone_surrogates_are_replaced() -> None:
    assert decode_leniently(b'{"part":{"text":"a\\ud83d"},"any":{"\\ude00":["\\ud83d"]}}', Document) == Document(
        Part("a?"), any={"?": ["?"]}
    )


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"5", b"null", b'{"a":"\xff"}', b"[" * 100_000, b"9" * 5_000])
def test_bytes_that_are_no_json_object_are_malformed(body: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        decode_leniently(body, Document)


@pytest.mark.parametrize(
    "body",
    [
        chat_answer({"content": "Hi", "refusal": [], "reasoning_content": {"a": 1}, "function_call": "x"}),
        chat_answer({"content": {"type": "text", "text": "Hi"}, "tool_calls": {"a": 1}}),
        chat_answer({"content": "Hi"}, finish_reason=7, created="now"),
        chat_answer({"content": "Hi", "tool_calls": [None, "x", {"function": None}]}, finish_reason=None),
        chat_answer({"content": "Hi"}).replace(b'"index":0', b'"index":0,"logprobs":NaN'),
    ],
)
def test_an_odd_chat_completion_is_read_as_far_as_it_can_be(body: bytes) -> None:
    assert chat.read_answer(body) == Completion("Hi", "stop", Usage(10, 5))


def test_a_chat_completion_without_choices_is_empty_if_it_reports_a_usage() -> None:
    odd: list[Any] = [None, [], [None], [{}], [{"message": None}]]
    for choices in odd:
        assert chat.read_answer(chat_answer(None, choices=choices)) == Completion("", "stop", Usage(10, 5))


@pytest.mark.parametrize(
    "body",
    [
        messages_answer(content="Hi"),
        messages_answer({"type": "text", "text": "Hi"}, {"type": "text", "text": 5}, 7, stop_reason=7),
        messages_answer({"type": "text", "text": "Hi"}, {"type": "thinking", "thinking": {}}, type=None),
    ],
)
def test_an_odd_message_is_read_as_far_as_it_can_be(body: bytes) -> None:
    assert messages.read_answer(body) == Completion("Hi", "stop", Usage(10, 5))


@pytest.mark.parametrize(
    "body",
    [
        responses_answer({"type": "message", "content": "Hi"}),
        responses_answer({"type": "message", "content": [{"type": "text", "text": "Hi"}, 5]}, 7, None),
        responses_answer(
            {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]},
            {"type": "reasoning", "summary": "none", "content": 5},
            status=None,
            incomplete_details="none",
        ),
    ],
)
def test_an_odd_response_is_read_as_far_as_it_can_be(body: bytes) -> None:
    assert responses.read_answer(body) == Completion("Hi", "stop", Usage(10, 5))


def test_an_odd_answer_of_ollama_is_read_as_far_as_it_can_be() -> None:
    assert ollama.read_answer(ollama_answer(content="Hi", thinking=5, tool_calls=[{}, 5])) == Completion(
        "Hi", "stop", Usage(10, 5)
    )


ARGUMENTS: list[Any] = ['{"x":1}', {"x": 1}]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=["text", "object"])
def test_arguments_may_be_an_object_or_its_text(arguments: Any) -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": arguments}}
    block = {"type": "tool_use", "id": "c", "name": "f", "input": arguments}
    item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": arguments}
    for completion in (
        chat.read_answer(chat_answer({"content": None, "tool_calls": [call]})),
        messages.read_answer(messages_answer(block)),
        responses.read_answer(responses_answer(item)),
        ollama.read_answer(ollama_answer(tool_calls=[call])),
    ):
        assert completion == Completion("", "tool_calls", Usage(10, 5), (ToolCall("c", "f", '{"x":1}'),))


@pytest.mark.parametrize("given", [{}, {"id": ""}, {"id": None}, {"id": 7}])
def test_each_tool_call_without_an_id_gets_one_that_no_other_call_has(given: dict[str, Any]) -> None:
    call = {"function": FUNCTION} | given
    block = {"type": "tool_use", "name": "f", "input": {"x": 1}} | given
    item = {"type": "function_call", "name": "f", "arguments": "{}"} | {"call_" + name: given[name] for name in given}
    calls = [
        one
        for _ in range(2)
        for completion in (
            chat.read_answer(chat_answer({"content": None, "tool_calls": [call, call], "function_call": FUNCTION})),
            messages.read_answer(messages_answer(block, block)),
            responses.read_answer(responses_answer(item, item)),
            ollama.read_answer(ollama_answer(tool_calls=[call, call])),
        )
        for one in completion.tool_calls
    ]
    assert len({one.id for one in calls}) == len(calls) == 18
    assert all(MADE_ID.fullmatch(one.id) for one in calls)


@pytest.mark.parametrize(
    ("theirs", "with_call", "without"),
    [
        ("stop", "tool_calls", "stop"),
        ("tool_calls", "tool_calls", "stop"),
        ("function_call", "tool_calls", "stop"),
        ("", "tool_calls", "stop"),
        (None, "tool_calls", "stop"),
        ("eos", "tool_calls", "stop"),
        ("STOP", "tool_calls", "stop"),
        ("TOOL_CALLS", "tool_calls", "stop"),
        ("MAX_TOKENS", "length", "length"),
        ("model_length", "length", "length"),
        ("SAFETY", "content_filter", "content_filter"),
        ("abort", "tool_calls", "abort"),
        ("length", "length", "length"),
        ("content_filter", "content_filter", "content_filter"),
    ],
)
def test_tool_calls_decide_whether_a_chat_completion_finished_with_them(
    theirs: str | None, with_call: str, without: str
) -> None:
    called = {"content": None, "tool_calls": [{"id": "c", "function": FUNCTION}]}
    assert chat.read_answer(chat_answer(called, theirs)).finish_reason == with_call
    assert chat.read_answer(chat_answer({"content": "Hi"}, theirs)).finish_reason == without


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("end_turn", "tool_calls"),
        ("stop_sequence", "tool_calls"),
        ("tool_use", "tool_calls"),
        (None, "tool_calls"),
        ("max_tokens", "length"),
        ("refusal", "refusal"),
    ],
)
def test_tool_calls_decide_whether_a_message_finished_with_them(theirs: str | None, ours: str) -> None:
    block = {"type": "tool_use", "id": "c", "name": "f", "input": {}}
    assert messages.read_answer(messages_answer(block, stop_reason=theirs)).finish_reason == ours


def test_a_tool_result_for_ollama_names_the_latest_call_with_its_id() -> None:
    turns = []
    for name in ("first", "second"):
        turns += [
            Message("assistant", (ToolCall("call_0", name, "{}"),)),
            Message("user", (ToolResult("call_0", name),)),
        ]
    document = ollama.write_request(ChatRequest(tuple(turns)), "m")
    results = [one for one in document["messages"] if one["role"] == "tool"]
    assert [one["tool_name"] for one in results] == [one["content"] for one in results] == ["first", "second"]


@pytest.mark.parametrize(
    ("theirs", "chat_reason", "responses_reason", "completions_reason"),
    [
        ("abort", "stop", None, "stop"),
        ("EOS", "stop", None, "stop"),
        ("MAX_TOKENS", "length", "max_output_tokens", "length"),
        ("SAFETY", "content_filter", "content_filter", "content_filter"),
    ],
)
def test_a_foreign_finish_reason_is_written_as_one_that_clients_know(
    theirs: str, chat_reason: str, responses_reason: str | None, completions_reason: str
) -> None:
    read = chat.read_answer(chat_answer({"content": "Hi"}, theirs))
    meta, usage = ResponseMeta("x_1", "m", 1), Usage(1, 1)
    writers = ((chat.write_answer, chat_reason), (completions.write_answer, completions_reason))
    for write_answer, expected in writers:
        [choice] = orjson.loads(write_answer(read, meta, usage))["choices"]
        assert choice["finish_reason"] == expected
    response = orjson.loads(responses.write_answer(read, meta, usage))
    assert (response["incomplete_details"] or {}).get("reason") == responses_reason
    assert response["status"] == ("completed" if responses_reason is None else "incomplete")
    streamed = completions.StreamWriter(meta, with_usage=False).end(read.finish_reason, usage)
    assert orjson.loads(Splitter().feed(streamed)[0].data)["choices"][0]["finish_reason"] == completions_reason
