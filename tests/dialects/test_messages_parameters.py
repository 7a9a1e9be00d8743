"""The messages wire: which parameters, tools and content are taken, and what bounds their tokens."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal, get_args

import anthropic.types as wire
import anthropic.types.beta as beta
import msgspec
import orjson
import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import message_create_params as beta_create_params
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import get_type_hints

from tollkeeper.dialects import messages
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.dialects.parameters import filter_parameters
from tollkeeper.errors import InputError, InvalidRequest, UnsupportedParameter

TOOL = {"name": "weather", "input_schema": {"type": "object"}}
HELLO = [{"role": "user", "content": "hello"}]


def fields(**document: Any) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(orjson.dumps(document), type=dict[str, msgspec.Raw])


def asked(*blocks: dict[str, Any], role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": list(blocks)}]


def tags(union: Any) -> Iterator[str]:
    """Every `type` that a union of the client's own types knows, but for those that may go without."""
    for kind in get_args(union):
        said: Any = get_type_hints(kind)["type"]
        if type(said) is type(Literal["a"]):
            yield from get_args(said)


@pytest.mark.parametrize(
    "parameters",
    [
        message_create_params.MessageCreateParamsNonStreaming,
        message_create_params.MessageCreateParamsStreaming,
        message_count_tokens_params.MessageCountTokensParams,
        beta_create_params.MessageCreateParamsNonStreaming,
        beta_create_params.ParseMessageCreateParamsBase,
    ],
)
def test_every_parameter_of_the_client_is_classed(parameters: Any) -> None:
    assert set(parameters.__annotations__) - set(messages.PARAMETERS) == set()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mcp_servers", [{"type": "url", "url": "https://x", "name": "x"}]),
        ("container", "container_1"),
        ("context_management", {"edits": []}),
        ("fallbacks", [{"model": "claude-opus-5"}]),
        ("speed", "fast"),
        ("inference_geo", "us"),
        ("service_tier", "priority"),
        ("cache_control", {"type": "ephemeral", "ttl": "1h"}),
        ("never_heard_of", 1),
    ],
)
def test_what_costs_more_or_stays_at_the_provider_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        filter_parameters(fields(**{name: value}), messages.PARAMETERS)
    assert refused.value.parameter == name


def test_what_is_free_to_choose_goes_out_as_it_came() -> None:
    given = {"thinking": {"type": "enabled", "budget_tokens": 2000}, "top_k": 5, "service_tier": "standard_only"}
    ours = {"model": "x", "max_tokens": 5, "stream": True, "speed": "standard"}
    assert filter_parameters(fields(**given, **ours), messages.PARAMETERS) == {
        k: orjson.dumps(v) for k, v in given.items()
    }


def test_the_shape_counts_turns_pictures_and_tools() -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}}
    linked = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [picture, {"type": "text", "text": "a"}]}
    document = {"messages": [*asked(picture, linked, result), *HELLO], "system": "be kind", "tools": [TOOL]}
    assert messages.input_size_of(fields(**document)) == InputSize(3, images=3, image_bytes=16, tools=True)
    assert messages.input_size_of(fields(messages=HELLO, system=None, tools=[])) == InputSize(1)


KNOWN = {"text", "image", "search_result", "thinking", "redacted_thinking", "tool_use", "tool_result"}


@pytest.mark.parametrize("kind", sorted(set(tags(wire.ContentBlockParam)) - KNOWN))
def test_every_other_kind_of_content_is_refused(kind: str) -> None:
    """Documents, containers, and whatever tools of the provider's own brought."""
    with pytest.raises(UnsupportedParameter) as refused:
        messages.input_size_of(fields(messages=asked({"type": kind})))
    assert refused.value.parameter == "messages[0].content[0].type"


@pytest.mark.parametrize("kind", sorted({*tags(wire.ToolUnionParam), *tags(beta.BetaToolUnionParam)}))
def test_every_tool_that_the_provider_defines_is_refused(kind: str) -> None:
    with pytest.raises(UnsupportedParameter):
        messages.input_size_of(fields(messages=HELLO, tools=[TOOL, {"type": kind, "name": "theirs"}]))


def test_the_lists_of_content_and_tools_come_from_the_client() -> None:
    """Else the tests above prove nothing."""
    assert set(tags(wire.ContentBlockParam)) > KNOWN | {"document", "server_tool_use", "container_upload"}
    assert {"web_search_20250305", "code_execution_20250825"} <= set(tags(wire.ToolUnionParam))


@pytest.mark.parametrize(
    "blocks",
    [
        [{"type": "image", "source": {"type": "file", "file_id": "file_1"}}],
        [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        [{"type": "text", "text": "a", "something": "new"}],
        [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "document"}]}],
        [{"type": "tool_use", "id": "t", "name": "n", "input": {}, "caller": {"type": "code_execution_20250825"}}],
    ],
)
def test_files_longer_caches_and_unknown_fields_are_refused(blocks: list[dict[str, Any]]) -> None:
    with pytest.raises(UnsupportedParameter):
        messages.input_size_of(fields(messages=asked(*blocks)))


@pytest.mark.parametrize("url", ["http://10.0.0.1/a.png", "file:///etc/passwd", "data:application/pdf;base64,AA", ""])
def test_a_picture_is_linked_by_https(url: str) -> None:
    """In what a tool answered too."""
    picture = {"type": "image", "source": {"type": "url", "url": url}}
    answered = {"type": "tool_result", "tool_use_id": "t", "content": [picture]}
    for block, place in ((picture, ""), (answered, ".content[0]")):
        with pytest.raises(UnsupportedParameter) as refused:
            messages.input_size_of(fields(messages=asked(block)))
        assert refused.value.parameter == f"messages[0].content[0]{place}.source.url"


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"messages": None},
        {"messages": []},
        {"messages": "hello"},
        {"messages": [{"role": "user"}]},
        {"messages": asked({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": 7}})},
        {"messages": asked({"type": "tool_use", "id": "t", "name": "n", "input": []})},
        {"messages": HELLO, "system": 5},
        {"messages": HELLO, "tools": {}},
        {"messages": HELLO, "thinking": "disabled"},
        {"messages": HELLO, "thinking": {"budget_tokens": 2000}},
    ],
)
def test_what_is_no_message_is_invalid(document: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        messages.input_size_of(fields(**document))


@pytest.mark.parametrize(
    "document",
    [
        {"tools": [TOOL | {"defer_loading": True}]},
        {"tools": [TOOL | {"allowed_callers": ["code_execution_20250825"]}]},
        {"metadata": {"user_id": "u", "team": "x"}},
        {"output_config": {"effort": "low", "task_budget": {"total": 1}}},
        {"system": [{"type": "document"}]},
    ],
)
def test_what_is_unknown_elsewhere_is_refused_too(document: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        messages.input_size_of(fields(messages=HELLO, **document))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
blocks = st.fixed_dictionaries(
    {"type": st.sampled_from([*sorted(KNOWN), "document"]) | json_values},
    optional={
        name: json_values | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": json_values}), max_size=2)
        for name in ("text", "source", "content", "input", "id", "name", "tool_use_id", "cache_control", "title")
    },
)
turns = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]) | json_values, "content": st.lists(blocks) | json_values}
)


@given(
    st.dictionaries(st.sampled_from(sorted(messages.PARAMETERS)), json_values, max_size=4),
    st.lists(turns, max_size=3) | json_values,
)
def test_a_strange_request_is_refused_and_breaks_nothing(document: dict[str, Any], turns: Any) -> None:
    document = document | {"messages": turns}
    raw = msgspec.json.decode(msgspec.json.encode(document), type=dict[str, msgspec.Raw])
    with suppress(InputError):
        messages.input_size_of(raw)
    with suppress(InputError):
        messages.read_request(document)


def test_a_deep_request_is_invalid() -> None:
    deep = b"[" * 5000 + b"]" * 5000
    block = b'[{"role":"user","content":[{"type":"text","text":"a","citations":' + deep + b"}]}]"
    with pytest.raises(InvalidRequest):
        messages.input_size_of({"messages": msgspec.Raw(block)})


FORMAT = {"type": "json_schema", "schema": {"type": "object"}}


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ({"output_format": FORMAT}, {"output_config": {"format": FORMAT}}),
        (
            {"output_format": FORMAT, "output_config": {"effort": "low"}},
            {"output_config": {"effort": "low", "format": FORMAT}},
        ),
        ({"output_format": None, "output_config": {"effort": "low"}}, {"output_config": {"effort": "low"}}),
        ({"output_config": {"format": FORMAT}}, {"output_config": {"format": FORMAT}}),
    ],
)
def test_the_older_name_of_the_format_is_taken_for_the_newer(given: dict[str, Any], passed: dict[str, Any]) -> None:
    renamed = filter_parameters(messages.move_output_format(fields(**given)), messages.PARAMETERS)
    assert {name: orjson.loads(value) for name, value in renamed.items()} == passed


def test_both_names_at_once_are_refused() -> None:
    both = fields(output_format=FORMAT, output_config={"format": FORMAT})
    with pytest.raises(UnsupportedParameter) as raised:
        filter_parameters(messages.move_output_format(both), messages.PARAMETERS)
    assert raised.value.parameter == "output_format"


def test_an_older_format_beside_a_config_that_is_none_is_invalid() -> None:
    with pytest.raises(InvalidRequest):
        messages.move_output_format(fields(output_format=FORMAT, output_config="low"))
