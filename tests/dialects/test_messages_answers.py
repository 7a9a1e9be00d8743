"""The messages wire: whole answers and errors, read and written."""

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

HEAD = ResponseMeta("chg_1", "our-claude", 1_700_000_000)
USAGE = {"input_tokens": 10, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 3, "output_tokens": 7}


def answer(*content: dict[str, Any], **fields: Any) -> bytes:
    document = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": content}
    return orjson.dumps(document | {"stop_reason": "end_turn", "stop_sequence": None, "usage": USAGE} | fields)


def test_an_answer_is_read_whole() -> None:
    thought = {"output_tokens_details": {"thinking_tokens": 4}}
    body = answer(
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "It is ", "citations": None},
        {"type": "text", "text": "raining."},
        {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Ulm", "days": [1, 2]}},
        {"type": "a_block_of_the_future", "content": [1]},
        stop_reason="tool_use",
        usage=USAGE | thought,
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
        ("tool_use", "tool_calls"),
        ("refusal", "refusal"),
        ("of_the_future", "of_the_future"),
        (None, "stop"),
    ],
)
def test_why_an_answer_ended_is_told_in_our_words(theirs: str | None, ours: str) -> None:
    assert messages.read_answer(answer(stop_reason=theirs)).finish_reason == ours


def test_a_refusal_is_explained() -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "I must not."}
    said = messages.read_answer(answer(stop_reason="refusal", stop_details=details))
    assert (said.text, said.refusal) == ("I must not.", "I must not.")
    said = messages.read_answer(answer({"type": "text", "text": "Well."}, stop_details=details))
    assert (said.text, said.refusal) == ("Well.", "I must not.")


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        7,
        {"input_tokens": 1},
        {"input_tokens": -1, "output_tokens": 1},
        {"input_tokens": 1.0, "output_tokens": 1},
        {"input_tokens": True, "output_tokens": 1},
        {"input_tokens": 2**53, "output_tokens": 1},
        {"input_tokens": 2**53 - 1, "cache_read_input_tokens": 1, "output_tokens": 1},
        {"input_tokens": 1, "cache_creation_input_tokens": "1", "output_tokens": 1},
    ],
)
def test_what_cannot_be_counts_is_no_usage(usage: Any) -> None:
    assert not isinstance(messages.read_answer(answer(usage=usage)).usage, Usage)


def test_a_usage_of_nothing_is_a_usage() -> None:
    usage = {"input_tokens": 0, "output_tokens": 0, "cache_read_input_tokens": None}
    assert messages.read_answer(answer(usage=usage)).usage == Usage(0, 0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"type":"message","content":"hello"}',
        b'{"type":"message","content":[{"type":"text","text":5}]}',
        b'{"type":"message","content":[{"type":"text","text":"\xff"}]}',
        b'{"type":"message","content":[],"usage":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
def test_what_is_no_message_is_a_bad_answer(body: bytes) -> None:
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
def test_a_strange_answer_is_bad_and_breaks_nothing(value: Any) -> None:
    whole = orjson.loads(answer({"type": "tool_use", "id": "t", "name": "n", "input": {}}))
    for name in whole:
        body = orjson.dumps(whole | {name: _plain(value)})
        try:
            messages.read_answer(body)
        except MalformedAnswer:
            assert name in {"type", "content", "stop_reason"}


def _plain(value: Any) -> Any:
    """Numbers as large as JSON has them."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if not isinstance(value, int) or abs(value) < 2**63 else float(value)


def written(completion: Completion, usage: Usage) -> wire.Message:
    return wire.Message.model_validate_json(messages.write_answer(completion, HEAD, usage), strict=True)


def test_an_answer_is_written_as_the_client_knows_it() -> None:
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
def test_why_an_answer_ended_is_told_in_the_wires_words(ours: str, theirs: str) -> None:
    assert written(Completion("Hi", ours, None), Usage(1, 1)).stop_reason == theirs


@pytest.mark.parametrize(("text", "told"), [("", ["No."]), ("No.", ["No."]), ("Well.", ["Well.", "No."])])
def test_a_refusal_of_another_wire_is_one_here(text: str, told: list[str]) -> None:
    message = written(Completion(text, "stop", None, refusal="No."), Usage(1, 1))
    assert message.stop_reason == "refusal"
    assert [block.text for block in message.content if block.type == "text"] == told


def test_what_was_given_to_a_custom_tool_stands_in_an_object() -> None:
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
def test_an_answer_comes_back_as_it_was(
    text: str, names: list[str], reasoning: str | None, usage: Usage, reason: str
) -> None:
    calls = tuple(ToolCall(f"t{number}", name, '{"a":1}') for number, name in enumerate(names))
    completion = Completion(text, "tool_calls" if calls else reason, usage, calls, reasoning=reasoning)
    assert messages.read_answer(messages.write_answer(completion, HEAD, usage)) == completion


def test_a_count_of_tokens_is_written_as_the_client_knows_it() -> None:
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
def test_each_status_has_its_name(status: int, name: str) -> None:
    assert messages.error_type(status) == name


def test_an_error_is_written_as_the_client_knows_it() -> None:
    error = ErrorResponse.model_validate_json(messages.write_error("not_found_error", "There is no such thing here."))
    assert (error.error.type, error.error.message) == ("not_found_error", "There is no such thing here.")
