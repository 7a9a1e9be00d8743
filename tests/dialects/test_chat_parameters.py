"""Parameters, tools and content of chat completions: which are accepted, and the size of the input."""

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_type_hints

import msgspec
import orjson
import pytest
from openai.types.chat import (
    chat_completion_assistant_message_param,
    chat_completion_content_part_param,
    chat_completion_tool_union_param,
    completion_create_params,
)

from tollkeeper.dialects import chat
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.dialects.parameters import filter_parameters, split_extra
from tollkeeper.errors import InvalidRequest, UnsupportedParameter

HOUR = {"type": "ephemeral", "ttl": "1h"}
HELLO = [{"role": "user", "content": "hello"}]
DATA = "data:image/png;base64,aGVsbG8="
INLINE_IMAGE = {"type": "image_url", "image_url": {"url": DATA}}
LINKED_IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def fields(**document: Any) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(orjson.dumps(document), type=dict[str, msgspec.Raw])


def user_message(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def type_tags(union: Any) -> Iterator[str]:
    """Every `type` in a union of the SDK's types."""
    for kind in get_args(union):
        hint: Any = get_type_hints(kind)["type"]
        assert type(hint) is type(Literal["a"])
        yield from get_args(hint)


def test_exactly_the_parameters_of_the_sdk_have_a_rule() -> None:
    assert set(chat.PARAMETERS) == set(get_type_hints(completion_create_params.CompletionCreateParamsStreaming))
    assert set(get_type_hints(completion_create_params.CompletionCreateParamsNonStreaming)) <= set(chat.PARAMETERS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("store", True),
        ("store", 0),
        ("service_tier", "priority"),
        ("service_tier", "flex"),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("prediction", {"type": "content", "content": "hello"}),
        ("web_search_options", {}),
        ("moderation", {"model": "omni-moderation-latest"}),
        ("prompt_cache_retention", "24h"),
        ("prompt_cache_options", {"ttl": "30m"}),
        ("unknown_parameter", 1),
        ("best_of", 5),
    ],
)
def test_a_parameter_that_costs_more_or_stores_at_the_provider_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        filter_parameters(fields(messages=HELLO, **{name: value}), chat.PARAMETERS)
    assert refused.value.parameter == name


def test_free_parameters_are_passed_unchanged_and_those_set_by_tollkeeper_are_not() -> None:
    given = {"messages": HELLO, "logit_bias": {"1": 2}, "n": 2, "user": "u", "prompt_cache_retention": "in_memory"}
    ours = {"model": "x", "max_tokens": 5, "max_completion_tokens": 5, "stream": True, "stream_options": {}}
    dropped = {"store": False, "metadata": {"a": "b"}, "service_tier": "auto", "modalities": ["text"], "seed": None}
    passed = filter_parameters(fields(**given, **ours, **dropped), chat.PARAMETERS)
    assert passed == {name: orjson.dumps(value) for name, value in given.items()}


def test_a_parameter_without_a_rule_is_extra_and_one_that_is_refused_is_not() -> None:
    given = fields(messages=HELLO, top_k=40, web_search_options={}, store=True)
    known, extra = split_extra(given, chat.PARAMETERS)
    assert known == {name: given[name] for name in ("messages", "web_search_options", "store")}
    assert extra == {"top_k": b"40"}
    plain = fields(messages=HELLO)
    assert split_extra(plain, chat.PARAMETERS) == (plain, {})


def test_the_input_size_counts_messages_images_and_tools() -> None:
    messages = [*user_message(INLINE_IMAGE, LINKED_IMAGE, {"type": "text", "text": "a"}), *HELLO]
    size = chat.input_size_of(fields(messages=messages, tools=[TOOL]))
    assert size == InputSize(2, images=2, image_bytes=len("aGVsbG8="), tools=True)
    assert chat.input_size_of(fields(messages=HELLO)) == InputSize(1)


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        ({"tools": [TOOL]}, True),
        ({"tools": [{"type": "custom", "custom": {"name": "c"}}]}, True),
        ({"functions": [{"name": "f"}]}, True),
        ({"tools": []}, False),
        ({"tools": None}, False),
        ({"tools": None, "functions": [{"name": "f"}]}, True),
        ({}, False),
    ],
)
def test_tools_and_deprecated_functions_are_recognised(tools: dict[str, Any], expected: bool) -> None:
    assert chat.input_size_of(fields(messages=HELLO, **tools)).tools is expected


ACCEPTED = {"text", "image_url", "refusal"}


def test_the_types_of_content_and_tools_come_from_the_sdk() -> None:
    """Otherwise the tests below would test nothing."""
    assert set(type_tags(chat_completion_content_part_param.ChatCompletionContentPartParam)) > ACCEPTED - {"refusal"}
    assert set(type_tags(chat_completion_assistant_message_param.ContentArrayOfContentPart)) <= ACCEPTED
    assert set(type_tags(chat_completion_tool_union_param.ChatCompletionToolUnionParam)) == {"function", "custom"}


@pytest.mark.parametrize(
    "kind",
    [*sorted({*type_tags(chat_completion_content_part_param.ChatCompletionContentPartParam)} - ACCEPTED), "unknown"],
)
def test_every_other_type_of_content_is_refused(kind: str) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        chat.input_size_of(fields(messages=user_message({"type": kind})))
    assert refused.value.parameter == "messages.content"


@pytest.mark.parametrize(
    ("document", "parameter"),
    [
        ({"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}, "messages.audio"),
        ({"messages": user_message({"type": "text", "text": "a", "prompt_cache_breakpoint": {}})}, "messages.content"),
        ({"messages": HELLO, "tools": [TOOL, {"type": "web_search"}]}, "tools"),
        *[
            (
                {"messages": user_message(LINKED_IMAGE, {"type": kind, "text": "a", "image_url": {"url": url}})},
                "messages.content",
            )
            for kind in ("image_url", "text")
            for url in (
                "http://10.0.0.1/a.png",
                "file:///etc/passwd",
                "data:application/pdf;base64,AAAA",
                " https://a",
                "",
            )
        ],
    ],
)
def test_input_whose_tokens_have_no_bound_is_refused(document: dict[str, Any], parameter: str) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        chat.input_size_of(fields(**document))
    assert refused.value.parameter == parameter


@pytest.mark.parametrize(
    ("document", "parameter"),
    [
        ({}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages"),
        ({"messages": [{"content": "a"}]}, "messages"),
        ({"messages": user_message({"text": "a"})}, "messages"),
        ({"messages": user_message({"type": "image_url", "image_url": "https://example.com/a.png"})}, "messages"),
        ({"messages": HELLO, "tools": {}}, "tools"),
        ({"messages": HELLO, "tools": ["f"]}, "tools"),
        ({"messages": HELLO, "tools": [{}]}, "tools"),
    ],
)
def test_a_malformed_request_is_invalid(document: dict[str, Any], parameter: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat.input_size_of(fields(**document))
    assert refused.value.parameter == parameter


@pytest.mark.parametrize(
    "place",
    [
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": HOUR}]}]},
        {"messages": [{"role": "user", "content": "Hi", "cache_control": HOUR}]},
        {"messages": HELLO, "tools": [{**TOOL, "cache_control": HOUR}]},
    ],
    ids=["part", "message", "tool"],
)
def test_a_cache_for_an_hour_is_found_but_not_in_text(place: dict[str, Any]) -> None:
    assert chat.input_size_of(fields(**place)).hour_cache
    quoted = [{"role": "user", "content": orjson.dumps(place).decode()}]
    assert not chat.input_size_of(fields(messages=quoted)).hour_cache
