"""Whole answers in the chat completions format, read and written."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from tollkeeper.chat import Completion, InconsistentUsage, ToolCall, Usage
from tollkeeper.dialects import chat
from tollkeeper.dialects.answer_checks import MalformedAnswer, ProviderSentError
from tollkeeper.dialects.response_meta import ResponseMeta

META = ResponseMeta("chg_1", "ours", 1_700_000_000)


def answer(**changes: Any) -> bytes:
    whole = {
        "id": "x",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}},
    }
    return orjson.dumps(whole | changes)


def answer_with(finish_reason: str | None = "stop", **message: Any) -> bytes:
    return answer(choices=[{"message": {"role": "assistant", **message}, "finish_reason": finish_reason}])


def test_an_answer_is_read_with_its_usage_report() -> None:
    assert chat.read_answer(answer()) == Completion("Hi", "stop", Usage(9, 2, 4))


def test_a_refusal_is_read_as_text_and_as_a_refusal() -> None:
    completion = chat.read_answer(answer_with(content=None, refusal="No."))
    assert (completion.text, completion.refusal) == ("No.", "No.")


def test_an_answer_without_text_is_empty() -> None:
    assert chat.read_answer(answer_with(None, content=None)) == Completion("", "stop", Usage(9, 2, 4))


def test_tool_calls_reasoning_and_finish_reason_are_read() -> None:
    function = {"name": "f", "arguments": '{"a": 1'}
    body = answer_with(
        "tool_calls", content=None, reasoning_content="hm", tool_calls=[{"id": "c", "function": function}, {}]
    )
    completion = chat.read_answer(body)
    assert completion.tool_calls == (ToolCall("c", "f", '{"a": 1'),)
    assert (completion.finish_reason, completion.reasoning) == ("tool_calls", "hm")


@pytest.mark.parametrize(
    ("message", "reasoning"),
    [
        ({"reasoning": "hm"}, "hm"),
        ({"reasoning": "hm", "reasoning_content": "hm"}, "hm"),
        ({"reasoning": "hm", "reasoning_content": ""}, "hm"),
        ({"reasoning": ""}, None),
        ({"reasoning": {"effort": "low"}}, None),
        ({"reasoning": {"text": "hm"}}, "hm"),
        ({"reasoning_content": ["h", {"type": "text", "text": "m"}]}, "hm"),
    ],
)
def test_reasoning_is_read_once_under_either_of_its_names(message: dict[str, Any], reasoning: str | None) -> None:
    assert chat.read_answer(answer_with(content="Hi", **message)) == Completion(
        "Hi", "stop", Usage(9, 2, 4), (), None, reasoning
    )


def test_the_input_of_a_custom_tool_is_read_as_text() -> None:
    call = {"id": "c", "type": "custom", "custom": {"name": "sql", "input": "select 1"}}
    completion = chat.read_answer(answer_with("tool_calls", content=None, tool_calls=[call]))
    assert completion.tool_calls == (ToolCall("c", "sql", "select 1", custom=True),)
    assert orjson.loads(chat.write_answer(completion, META, Usage(1, 1)))["choices"][0]["message"]["tool_calls"] == [
        call
    ]


def test_the_deprecated_function_call_is_read_as_a_tool_call() -> None:
    body = answer_with("function_call", content=None, function_call={"name": "f", "arguments": "{}"})
    completion = chat.read_answer(body)
    assert [(call.name, call.arguments) for call in completion.tool_calls] == [("f", "{}")]
    assert completion.finish_reason == "tool_calls"
    for no_call in (None, {}, {"name": None, "arguments": None}, {"name": "", "arguments": ""}):
        assert chat.read_answer(answer_with(content="Hi", function_call=no_call)).tool_calls == ()


def test_the_output_of_all_choices_is_read() -> None:
    function = {"name": "f", "arguments": "{}"}
    custom = {"name": "sql", "input": "select"}
    choices: list[dict[str, Any]] = [
        {"message": {"content": "one", "reasoning_content": "h"}},
        {"message": {"content": "two", "reasoning": "m"}},
        {"message": {"content": None, "refusal": "No.", "tool_calls": [{"id": "a", "function": function}]}},
        {"message": {"content": None, "tool_calls": [{"id": "b", "custom": custom}]}},
    ]
    completion = chat.read_answer(answer(choices=choices))
    calls = (ToolCall("a", "f", "{}"), ToolCall("b", "sql", "select", custom=True))
    assert (completion.text, completion.reasoning, completion.tool_calls) == ("onetwoNo.", "hm", calls)


def test_a_refusal_in_one_of_several_choices_is_only_part_of_the_text() -> None:
    choices = [{"message": {"content": None, "refusal": "No."}}, {"message": {"content": "Well."}}]
    completion = chat.read_answer(answer(choices=choices))
    assert (completion.text, completion.refusal) == ("No.Well.", None)


def test_an_empty_refusal_is_read_as_none() -> None:
    assert chat.read_answer(answer_with(content="", refusal="")).refusal is None


def test_reasoning_tokens_reported_beside_the_completion_tokens_are_inconsistent() -> None:
    """As xAI reports: only the total has both."""
    usage = {"prompt_tokens": 10, "completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 5}}
    assert chat.read_answer(answer(usage=usage | {"total_tokens": 18})).usage == InconsistentUsage(10, 3, 18, 0, 0, 5)
    usage["completion_tokens"] = 8
    assert chat.read_answer(answer(usage=usage | {"total_tokens": 18})).usage == Usage(10, 8, 0, 0, 5)
    assert chat.read_answer(answer(usage=usage)).usage == Usage(10, 8, 0, 0, 5)


def test_an_answer_can_have_both_text_and_a_refusal() -> None:
    completion = chat.read_answer(answer_with(content="Well.", refusal="No."))
    assert (completion.text, completion.refusal) == ("Well.", "No.")
    message = ChatCompletion.model_validate_json(chat.write_answer(completion, META, Usage(1, 1))).choices[0].message
    assert (message.content, message.refusal) == ("Well.", "No.")


@pytest.mark.parametrize(
    "usage",
    [
        None,
        "many",
        [],
        {},
        {"prompt_tokens": 9},
        {"prompt_tokens": "9.0", "completion_tokens": 2},
        {"prompt_tokens": True, "completion_tokens": 2},
        {"prompt_tokens": 9.5, "completion_tokens": 2},
        {"prompt_tokens": -1, "completion_tokens": 2},
        {"prompt_tokens": 9, "completion_tokens": 2**60},
        {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 10}},
        {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": -1}},
    ],
)
def test_an_impossible_usage_report_is_not_used(usage: object) -> None:
    assert not isinstance(chat.read_answer(answer(usage=usage)).usage, Usage)


@pytest.mark.parametrize("details", [None, {}, "x", {"cached_tokens": None}])
def test_a_usage_report_without_cached_tokens_has_zero(details: object) -> None:
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "prompt_tokens_details": details}
    assert chat.read_answer(answer(usage=usage)).usage == Usage(0, 0, 0)


def test_reasoning_and_cache_write_tokens_are_read() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 3}}
    usage["prompt_tokens_details"] = {"cached_tokens": 2, "cache_write_tokens": 1}
    assert chat.read_answer(answer(usage=usage)).usage == Usage(9, 5, 2, 1, 3)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b"{}",
        answer(choices=[], usage=None),
        answer(choices=[5], usage=None),
        answer(choices={}, usage={}),
        answer(error={"message": "SECRET"}, usage=None),
        answer()[:-5],
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_body_that_is_no_answer_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        chat.read_answer(body)


FAILED = {"message": {"content": None}, "error": {"message": "SECRET"}}


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (b'{"error":{"message":"SECRET","code":502}}', None),
        (b'{"error":"SECRET","choices":7}', None),
        (b'{"object":"error","message":"SECRET","code":400}', None),
        (b'{"error":{"message":"SECRET"},"usage":{"prompt_tokens":9,"completion_tokens":2}}', Usage(9, 2)),
        (answer(choices=[], error={"message": "SECRET"}), Usage(9, 2, 4)),
        (answer(error={"message": "SECRET"}), Usage(9, 2, 4)),
        (answer(choices=[FAILED], usage=None), None),
        (answer(choices=[{"message": {"content": "Hi"}, "error": {"message": "SECRET"}}]), Usage(9, 2, 4)),
        (
            answer(choices=[{"message": {"content": "Hi"}}, {"message": {"content": ""}, "finish_reason": "error"}]),
            Usage(9, 2, 4),
        ),
    ],
)
def test_an_error_with_status_200_is_a_failure_with_the_usage_that_it_reports(body: bytes, usage: object) -> None:
    with pytest.raises(ProviderSentError) as raised:
        chat.read_answer(body)
    assert raised.value.usage == usage
    assert "SECRET" not in repr(raised.value)


THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "h"}, {"type": "text", "text": "m"}]}


@pytest.mark.parametrize(
    ("content", "text", "reasoning"),
    [
        ([THINKING, {"type": "text", "text": "Hello"}], "Hello", "hm"),
        ([{"type": "text", "text": "Hel"}, {"type": "reference", "reference_ids": [1]}, "lo"], "Hello", None),
        ([{"type": "thinking", "thinking": "hm"}], "", "hm"),
        ([{"type": "thinking", "thinking": [7, {"text": 7}]}, 7, None, {"text": None}], "", None),
        ([], "", None),
    ],
)
def test_content_may_be_a_list_of_parts(content: list[Any], text: str, reasoning: str | None) -> None:
    assert chat.read_answer(answer_with(content=content)) == Completion(
        text, "stop", Usage(9, 2, 4), reasoning=reasoning
    )


@pytest.mark.parametrize("name", ["cached_tokens", "prompt_cache_hit_tokens"])
def test_cached_tokens_are_read_under_the_names_of_other_providers(name: str) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 5, "total_tokens": 1005, name: 900}
    assert chat.read_answer(answer(usage=usage)).usage == Usage(1000, 5, 900)


counts = st.integers(0, 10**6)
usages = st.builds(
    lambda cached, uncached, text, reasoning: Usage(cached + uncached, text + reasoning, cached, 0, reasoning),
    *[counts] * 4,
)
calls = st.lists(
    st.builds(
        ToolCall, st.text(min_size=1, max_size=3), st.text(max_size=3), st.text(max_size=9), signature=st.just("")
    ),
    max_size=2,
)
reasons = st.sampled_from(["stop", "length", "tool_calls", "content_filter"])
completions = st.builds(
    lambda text, reason, usage, calls, reasoning: Completion(text, reason, usage, tuple(calls), None, reasoning),
    st.text(max_size=9),
    reasons,
    usages,
    calls,
    st.none() | st.text(min_size=1, max_size=5),
) | st.builds(
    lambda text, usage: Completion(text, "refusal", usage, refusal=text), st.text(min_size=1, max_size=5), usages
)


@given(completions)
def test_what_is_written_is_valid_to_the_sdk_and_read_back_unchanged(completion: Completion) -> None:
    assert isinstance(completion.usage, Usage)
    written = chat.write_answer(completion, META, completion.usage)
    parsed = ChatCompletion.model_validate_json(written)
    assert (parsed.id, parsed.model, parsed.created) == META
    message = parsed.choices[0].message
    assert (message.content, message.refusal) in {(completion.text, None), (None, completion.refusal)}
    assert parsed.usage is not None
    assert parsed.usage.total_tokens == completion.usage.total_tokens
    reason = completion.finish_reason
    if completion.tool_calls:
        reason = "tool_calls" if reason == "stop" else reason
    elif reason in {"refusal", "tool_calls"}:
        reason = "stop"
    calls = [call if call.custom else call._replace(arguments=call.arguments or "{}") for call in completion.tool_calls]
    assert chat.read_answer(written) == completion._replace(finish_reason=reason, tool_calls=tuple(calls))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
malformed = st.fixed_dictionaries(
    {},
    optional={
        "choices": json_values
        | st.lists(
            st.fixed_dictionaries(
                {"message": json_values | st.fixed_dictionaries({"content": json_values, "tool_calls": json_values})},
                optional={"finish_reason": json_values},
            ),
            max_size=2,
        ),
        "usage": json_values
        | st.fixed_dictionaries({"prompt_tokens": json_values, "completion_tokens": json_values, "x": json_values}),
    },
)


@given(malformed | json_values, st.integers(0, 40))
def test_a_random_answer_is_read_or_raises_only_the_documented_errors(document: Any, cut: int) -> None:
    body = json.dumps(document).encode()
    for one in (body, body[:cut]):
        try:
            completion = chat.read_answer(one)
        except (MalformedAnswer, ProviderSentError):
            continue
        assert isinstance(completion.text, str)
