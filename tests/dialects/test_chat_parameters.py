"""Chat completions: which parameters, tools and content are taken, and what bounds their tokens."""

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
from tollkeeper.dialects.parameters import filter_parameters
from tollkeeper.errors import InvalidRequest, UnsupportedParameter

HELLO = [{"role": "user", "content": "hello"}]
DATA = "data:image/png;base64,aGVsbG8="
PICTURE = {"type": "image_url", "image_url": {"url": DATA}}
LINKED = {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def fields(**document: Any) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(orjson.dumps(document), type=dict[str, msgspec.Raw])


def asked(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def tags(union: Any) -> Iterator[str]:
    """Every `type` that a union of the client's own types knows."""
    for kind in get_args(union):
        said: Any = get_type_hints(kind)["type"]
        assert type(said) is type(Literal["a"])
        yield from get_args(said)


def test_every_parameter_of_the_client_is_classed_and_no_other() -> None:
    assert set(chat.PARAMETERS) == set(get_type_hints(completion_create_params.CompletionCreateParamsStreaming))
    assert set(get_type_hints(completion_create_params.CompletionCreateParamsNonStreaming)) <= set(chat.PARAMETERS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("store", True),
        ("service_tier", "priority"),
        ("service_tier", "flex"),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("prediction", {"type": "content", "content": "hello"}),
        ("web_search_options", {}),
        ("moderation", {"model": "omni-moderation-latest"}),
        ("prompt_cache_retention", "24h"),
        ("prompt_cache_options", {"ttl": "30m"}),
        ("never_heard_of", 1),
        ("best_of", 5),
    ],
)
def test_what_costs_more_or_stays_at_the_provider_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        filter_parameters(fields(messages=HELLO, **{name: value}), chat.PARAMETERS)
    assert refused.value.parameter == name


def test_what_is_free_to_choose_goes_out_as_it_came_and_what_is_ours_does_not() -> None:
    given = {"messages": HELLO, "logit_bias": {"1": 2}, "n": 2, "user": "u", "prompt_cache_retention": "in_memory"}
    ours = {"model": "x", "max_tokens": 5, "max_completion_tokens": 5, "stream": True, "stream_options": {}}
    dropped = {"store": False, "metadata": {"a": "b"}, "service_tier": "auto", "modalities": ["text"], "seed": None}
    passed = filter_parameters(fields(**given, **ours, **dropped), chat.PARAMETERS)
    assert passed == {name: orjson.dumps(value) for name, value in given.items()}


def test_the_shape_counts_turns_pictures_and_tools() -> None:
    messages = [*asked(PICTURE, LINKED, {"type": "text", "text": "a"}), *HELLO]
    shape = chat.input_size_of(fields(messages=messages, tools=[TOOL]))
    assert shape == InputSize(2, images=2, image_bytes=len("aGVsbG8="), tools=True)
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
def test_tools_are_seen_in_either_form(tools: dict[str, Any], expected: bool) -> None:
    assert chat.input_size_of(fields(messages=HELLO, **tools)).tools is expected


KNOWN = {"text", "image_url", "refusal"}


def test_the_lists_of_content_and_tools_come_from_the_client() -> None:
    """Else the tests below prove nothing."""
    assert set(tags(chat_completion_content_part_param.ChatCompletionContentPartParam)) > KNOWN - {"refusal"}
    assert set(tags(chat_completion_assistant_message_param.ContentArrayOfContentPart)) <= KNOWN
    assert set(tags(chat_completion_tool_union_param.ChatCompletionToolUnionParam)) == {"function", "custom"}


@pytest.mark.parametrize(
    "kind", [*sorted({*tags(chat_completion_content_part_param.ChatCompletionContentPartParam)} - KNOWN), "made_up"]
)
def test_every_other_kind_of_content_is_refused(kind: str) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        chat.input_size_of(fields(messages=asked({"type": kind})))
    assert refused.value.parameter == "messages.content"


@pytest.mark.parametrize(
    ("document", "parameter"),
    [
        ({"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}, "messages.audio"),
        ({"messages": asked({"type": "text", "text": "a", "prompt_cache_breakpoint": {}})}, "messages.content"),
        ({"messages": HELLO, "tools": [TOOL, {"type": "web_search"}]}, "tools"),
        *[
            ({"messages": asked(LINKED, {"type": kind, "text": "a", "image_url": {"url": url}})}, "messages.content")
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
def test_what_nobody_can_bound_is_refused(document: dict[str, Any], parameter: str) -> None:
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
        ({"messages": asked({"text": "a"})}, "messages"),
        ({"messages": asked({"type": "image_url", "image_url": "https://example.com/a.png"})}, "messages"),
        ({"messages": HELLO, "tools": {}}, "tools"),
        ({"messages": HELLO, "tools": ["f"]}, "tools"),
        ({"messages": HELLO, "tools": [{}]}, "tools"),
    ],
)
def test_what_is_no_chat_is_invalid(document: dict[str, Any], parameter: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat.input_size_of(fields(**document))
    assert refused.value.parameter == parameter
