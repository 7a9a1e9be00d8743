"""Whole answers in the responses format, read and written."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response

from support.depth import examples
from tollkeeper.chat import Completion, ToolCall, Usage
from tollkeeper.dialects.answer_checks import MalformedAnswer, ProviderSentError
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.dialects.responses import read_answer, write_answer

META = ResponseMeta("resp_0123", "gpt-x", 1_700_000_000)
USAGE = Usage(20, 12, 4, 3, 5)

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
calls = st.lists(st.builds(ToolCall, texts, texts, texts, signature=st.just("")), max_size=3).map(tuple)
completions = st.builds(
    lambda **fields: Completion(**fields),
    text=st.just("") | texts,
    finish_reason=st.sampled_from(["stop", "length", "content_filter"]),
    usage=st.just(USAGE),
    tool_calls=calls,
    refusal=st.none() | texts,
    reasoning=st.none() | texts,
)


@settings(max_examples=examples(150), deadline=None)
@given(completions)
def test_what_is_written_is_valid_to_the_sdk_and_read_back_unchanged(completion: Completion) -> None:
    """In an answer without text, the refusal is the text."""
    completion = completion._replace(text=completion.text or completion.refusal or "")
    body = write_answer(completion, META, USAGE)
    response = Response.model_validate_json(body)
    assert response.output_text == ("" if completion.text == completion.refusal else completion.text)
    reason = completion.finish_reason
    if reason == "stop":
        reason = "tool_calls" if completion.tool_calls else "refusal" if completion.refusal else "stop"
    assert read_answer(body) == completion._replace(finish_reason=reason)


def test_every_field_that_the_sdk_requires_is_written() -> None:
    document = orjson.loads(write_answer(Completion("Hi", "stop", USAGE), META, USAGE))
    required = {name for name, field in Response.model_fields.items() if field.is_required()}
    assert required <= set(document)
    assert (document["id"], document["model"], document["created_at"]) == META
    assert document["usage"] == {
        "input_tokens": 20,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
        "output_tokens": 12,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 32,
    }


@pytest.mark.parametrize(
    ("reason", "refusal", "status", "detail"),
    [
        ("stop", None, "completed", None),
        ("tool_calls", None, "completed", None),
        ("length", None, "incomplete", "max_output_tokens"),
        ("content_filter", None, "incomplete", "content_filter"),
        ("refusal", "No.", "completed", None),
        ("refusal", None, "incomplete", "content_filter"),
        ("pause_turn", None, "completed", None),
    ],
)
def test_a_finish_reason_is_written_as_a_status_and_its_details(
    reason: str, refusal: str | None, status: str, detail: str | None
) -> None:
    response = Response.model_validate_json(write_answer(Completion("Hi", reason, USAGE, refusal=refusal), META, USAGE))
    assert response.status == status
    assert (response.incomplete_details and response.incomplete_details.reason) == detail


def answer(**fields: Any) -> bytes:
    return orjson.dumps({"status": "completed", "output": [], **fields})


def test_text_refusal_reasoning_and_tool_calls_of_all_items_are_read() -> None:
    completion = read_answer(
        answer(
            output=[
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}], "content": None},
                {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "."}]},
                {"type": "web_search_call", "id": "ws", "action": {"type": "search"}},
                {"type": "message", "content": [{"type": "output_text", "text": "a"}]},
                {
                    "type": "message",
                    "content": [{"type": "output_text", "text": "b"}, {"type": "refusal", "refusal": "No."}],
                },
                {"type": "custom_tool_call", "call_id": "c", "name": "sql", "input": "select 1"},
            ],
            usage={"input_tokens": 3, "output_tokens": 2},
        )
    )
    assert completion == Completion(
        "ab",
        "tool_calls",
        Usage(3, 2),
        (ToolCall("c", "sql", "select 1", custom=True),),
        refusal="No.",
        reasoning="Hm.",
    )


def test_a_refusal_is_read_as_text_and_as_a_refusal() -> None:
    refused = {"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}
    completion = read_answer(answer(output=[refused]))
    assert (completion.text, completion.refusal, completion.finish_reason) == ("No.", "No.", "refusal")
    (item,) = orjson.loads(write_answer(completion, META, USAGE))["output"]
    assert item["content"] == refused["content"]


@pytest.mark.parametrize(
    "usage",
    [
        None,
        7,
        {},
        {"input_tokens": 3},
        {"input_tokens": True, "output_tokens": 1},
        {"input_tokens": 3.5, "output_tokens": 1},
        {"input_tokens": 2**53, "output_tokens": 1},
        {"input_tokens": 3, "output_tokens": -1},
        {"input_tokens": 3, "output_tokens": 1, "input_tokens_details": {"cached_tokens": 4}},
        {"input_tokens": 3, "output_tokens": 1, "input_tokens_details": {"cached_tokens": "one"}},
        {
            "input_tokens": 3,
            "output_tokens": 1,
            "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 2},
        },
        {"input_tokens": 3, "output_tokens": 1, "output_tokens_details": {"reasoning_tokens": 2}},
    ],
)
def test_an_impossible_usage_report_is_not_used(usage: Any) -> None:
    assert not isinstance(read_answer(answer(usage=usage)).usage, Usage)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"output": 7}',
        b'{"output": [7]}',
        b'{"output": []}',
        b'{"output": ' + b"[" * 100_000,
        b'{"output": [{"type": "message", "content": "\xff"}]}',
        answer(status="in_progress"),
    ],
)
def test_a_body_that_is_no_answer_or_not_complete_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        read_answer(body)


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (b'{"error":{"message":"secret"}}', None),
        (answer(status="failed", output=[], error={"message": "secret"}, usage=None), None),
        (answer(status="failed", output=[], usage={"input_tokens": 4000, "output_tokens": 1000}), Usage(4000, 1000)),
        (answer(status="cancelled", usage={"input_tokens": 9, "output_tokens": 2}), Usage(9, 2)),
        (answer(error={"message": "secret"}, usage={"input_tokens": 9, "output_tokens": 2}), Usage(9, 2)),
    ],
)
def test_an_error_with_status_200_is_a_failure_with_the_usage_that_it_reports(body: bytes, usage: object) -> None:
    with pytest.raises(ProviderSentError) as raised:
        read_answer(body)
    assert raised.value.usage == usage
    assert "secret" not in repr(raised.value)
