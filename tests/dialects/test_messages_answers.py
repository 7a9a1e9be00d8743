"""Whole answers and errors in the messages format, read and written."""

from typing import Any

import anthropic.types as wire
import orjson
import pytest
from anthropic.types.shared import ErrorResponse
from hypothesis import given
from hypothesis import strategies as st

from tollkeeper.chat import Completion, ToolCall, Usage
from tollkeeper.dialects import messages
from tollkeeper.dialects.answer_checks import MalformedAnswer, ProviderSentError
from tollkeeper.dialects.response_meta import ResponseMeta

META = ResponseMeta("chg_1", "our-claude", 1_700_000_000)
USAGE = {"input_tokens": 10, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 3, "output_tokens": 7}


def answer(*content: dict[str, Any], **fields: Any) -> bytes:
    document = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": content}
    return orjson.dumps(document | {"stop_reason": "end_turn", "stop_sequence": None, "usage": USAGE} | fields)


def test_every_block_of_an_answer_is_read() -> None:
    reasoning_usage = {"output_tokens_details": {"thinking_tokens": 4}}
    body = answer(
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "It is ", "citations": None},
        {"type": "text", "text": "raining."},
        {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Ulm", "days": [1, 2]}},
        {"type": "unknown_block", "content": [1]},
        stop_reason="tool_use",
        usage=USAGE | reasoning_usage,
    )
    call = ToolCall("t1", "weather", '{"city":"Ulm","days":[1,2]}')
    assert messages.read_answer(body) == Completion(
        "It is raining.", "tool_calls", Usage(18, 7, 5, 3, 4), (call,), reasoning="hm"
    )


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "stop"),
        ("refusal", "refusal"),
        ("unknown_reason", "unknown_reason"),
        (None, "stop"),
    ],
)
def test_the_stop_reason_of_an_answer_without_tool_calls_is_read(theirs: str | None, ours: str) -> None:
    assert messages.read_answer(answer(stop_reason=theirs)).finish_reason == ours


def test_the_explanation_of_a_refusal_is_read() -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "I must not."}
    completion = messages.read_answer(answer(stop_reason="refusal", stop_details=details))
    assert (completion.text, completion.refusal) == ("I must not.", "I must not.")
    completion = messages.read_answer(answer({"type": "text", "text": "Well."}, stop_details=details))
    assert (completion.text, completion.refusal) == ("Well.", "I must not.")


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        7,
        {"input_tokens": 1},
        {"input_tokens": -1, "output_tokens": 1},
        {"input_tokens": 1.5, "output_tokens": 1},
        {"input_tokens": True, "output_tokens": 1},
        {"input_tokens": 2**53, "output_tokens": 1},
        {"input_tokens": 2**53 - 1, "cache_read_input_tokens": 1, "output_tokens": 1},
        {"input_tokens": 1, "cache_creation_input_tokens": "one", "output_tokens": 1},
    ],
)
def test_an_impossible_usage_report_is_not_used(usage: Any) -> None:
    assert not isinstance(messages.read_answer(answer(usage=usage)).usage, Usage)


def test_a_usage_report_of_zero_is_read() -> None:
    usage = {"input_tokens": 0, "output_tokens": 0, "cache_read_input_tokens": None}
    assert messages.read_answer(answer(usage=usage)).usage == Usage(0, 0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"type":"message"}',
        b'{"type":"message","content":5}',
        b'{"type":"completion","content":[]}',
        b'{"type":"message","content":[{"type":"text","text":"\xff"}]}',
        b'{"type":"message","content":[],"usage":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
def test_a_body_that_is_no_message_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        messages.read_answer(body)


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (b'{"type":"error","error":{"type":"overloaded_error","message":"secret"}}', None),
        (b'{"error":{"message":"secret"}}', None),
        (answer(error={"message": "secret"}, usage={"input_tokens": 9, "output_tokens": 2}), Usage(9, 2)),
    ],
)
def test_an_error_with_status_200_is_a_failure_with_the_usage_that_it_reports(body: bytes, usage: object) -> None:
    with pytest.raises(ProviderSentError) as raised:
        messages.read_answer(body)
    assert raised.value.usage == usage
    assert "secret" not in repr(raised.value)


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner), max_leaves=5))
def test_a_random_answer_raises_only_the_documented_errors(value: Any) -> None:
    whole = orjson.loads(answer({"type": "tool_use", "id": "t", "name": "n", "input": {}}))
    for name in whole:
        body = orjson.dumps(whole | {name: _json_number(value)})
        try:
            messages.read_answer(body)
        except MalformedAnswer:
            assert name == "type"


def _json_number(value: Any) -> Any:
    """The value with integers beyond 64 bits as floats: orjson does not write them."""
    if isinstance(value, list):
        return [_json_number(item) for item in value]
    return value if not isinstance(value, int) or abs(value) < 2**63 else float(value)


def written(completion: Completion, usage: Usage) -> wire.Message:
    return wire.Message.model_validate_json(messages.write_answer(completion, META, usage), strict=True)


def test_a_written_answer_is_valid_to_the_sdk() -> None:
    calls = (ToolCall("t1", "weather", '{"city":"Ulm"}'), ToolCall("t2", "cut", '{"city":"U'))
    message = written(Completion("Hi", "tool_calls", None, calls, reasoning="hm"), Usage(18, 7, 5, 3, 4))
    assert (message.id, message.model, message.role, message.stop_reason) == (
        "chg_1",
        "our-claude",
        "assistant",
        "tool_use",
    )
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert [block.input for block in message.content if block.type == "tool_use"] == [{"city": "Ulm"}, {}]
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (10, 5, 3)
    assert usage.output_tokens_details is not None
    assert (usage.output_tokens, usage.output_tokens_details.thinking_tokens) == (7, 4)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal"), ("refusal", "refusal")],
)
def test_a_finish_reason_is_written_as_a_stop_reason(ours: str, theirs: str) -> None:
    assert written(Completion("Hi", ours, None), Usage(1, 1)).stop_reason == theirs


@pytest.mark.parametrize(("text", "texts"), [("", ["No."]), ("No.", ["No."]), ("Well.", ["Well.", "No."])])
def test_a_refusal_from_another_format_is_written_as_a_refusal(text: str, texts: list[str]) -> None:
    message = written(Completion(text, "stop", None, refusal="No."), Usage(1, 1))
    assert message.stop_reason == "refusal"
    assert [block.text for block in message.content if block.type == "text"] == texts


def test_the_input_of_a_custom_tool_is_written_as_an_object() -> None:
    message = written(Completion("", "tool_calls", None, (ToolCall("t", "sql", 'a "b"', custom=True),)), Usage(1, 1))
    assert [block.input for block in message.content if block.type == "tool_use"] == [{"input": 'a "b"'}]


words = st.text(st.characters(codec="utf-8"), min_size=1)
counts = st.integers(0, 10**6)
usages = st.builds(
    lambda fresh, cached, written, output: Usage(fresh + cached + written, output, cached, written, output // 2),
    counts,
    counts,
    counts,
    counts,
)


@given(words, st.lists(words, max_size=2), st.none() | words, usages, st.sampled_from(["stop", "length", "refusal"]))
def test_a_written_answer_is_read_back_unchanged(
    text: str, names: list[str], reasoning: str | None, usage: Usage, reason: str
) -> None:
    calls = tuple(ToolCall(f"t{number}", name, '{"a":1}') for number, name in enumerate(names))
    completion = Completion(text, "tool_calls" if calls else reason, usage, calls, reasoning=reasoning)
    assert messages.read_answer(messages.write_answer(completion, META, usage)) == completion


def test_a_written_token_count_is_valid_to_the_sdk() -> None:
    assert wire.MessageTokensCount.model_validate_json(messages.write_token_count(12)).input_tokens == 12


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (409, "invalid_request_error"),
        (413, "request_too_large"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_each_status_has_its_error_type(status: int, name: str) -> None:
    assert messages.error_type(status) == name


def test_a_written_error_is_valid_to_the_sdk() -> None:
    error = ErrorResponse.model_validate_json(messages.write_error("not_found_error", "There is no such thing here."))
    assert (error.error.type, error.error.message) == ("not_found_error", "There is no such thing here.")
