"""Parameters, tools and content of the messages format: which are accepted, and the size of the input."""

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


def message_of(*blocks: dict[str, Any], role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": list(blocks)}]


def type_tags(union: Any) -> Iterator[str]:
    """Every `type` in a union of the SDK's types, except optional ones."""
    for kind in get_args(union):
        hint: Any = get_type_hints(kind)["type"]
        if type(hint) is type(Literal["a"]):
            yield from get_args(hint)


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
def test_every_parameter_of_the_sdk_has_a_rule(parameters: Any) -> None:
    assert set(parameters.__annotations__) - set(messages.PARAMETERS) == set()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mcp_servers", [{"type": "url", "url": "https://x", "name": "x"}]),
        ("container", "container_1"),
        ("fallbacks", [{"model": "claude-opus-5"}]),
        ("speed", "fast"),
        ("inference_geo", "us"),
        ("service_tier", "priority"),
        ("unknown_parameter", 1),
    ],
)
def test_a_parameter_that_costs_more_or_stores_at_the_provider_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        filter_parameters(fields(**{name: value}), messages.PARAMETERS)
    assert refused.value.parameter == name


def test_free_parameters_are_passed_unchanged() -> None:
    given = {"thinking": {"type": "enabled", "budget_tokens": 2000}, "top_k": 5, "service_tier": "standard_only"}
    ours = {"model": "x", "max_tokens": 5, "stream": True, "speed": "standard"}
    assert filter_parameters(fields(**given, **ours), messages.PARAMETERS) == {
        k: orjson.dumps(v) for k, v in given.items()
    }


def test_the_input_size_counts_messages_images_and_tools() -> None:
    inline = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}}
    linked = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [inline, {"type": "text", "text": "a"}]}
    document = {"messages": [*message_of(inline, linked, result), *HELLO], "system": "be kind", "tools": [TOOL]}
    assert messages.input_size_of(fields(**document)) == InputSize(3, images=3, image_bytes=16, tools=True)
    assert messages.input_size_of(fields(messages=HELLO, system=None, tools=[])) == InputSize(1)


ACCEPTED = {"text", "image", "document", "search_result", "thinking", "redacted_thinking", "tool_use", "tool_result"}


@pytest.mark.parametrize("kind", sorted(set(type_tags(wire.ContentBlockParam)) - ACCEPTED))
def test_every_other_type_of_content_is_refused(kind: str) -> None:
    """Containers, and the results of the provider's own tools."""
    with pytest.raises(UnsupportedParameter) as refused:
        messages.input_size_of(fields(messages=message_of({"type": kind})))
    assert refused.value.parameter == "messages[0].content[0].type"


@pytest.mark.parametrize("kind", sorted({*type_tags(wire.ToolUnionParam), *type_tags(beta.BetaToolUnionParam)}))
def test_every_tool_defined_by_the_provider_is_refused(kind: str) -> None:
    with pytest.raises(UnsupportedParameter):
        messages.input_size_of(fields(messages=HELLO, tools=[TOOL, {"type": kind, "name": "theirs"}]))


def test_the_types_of_content_and_tools_come_from_the_sdk() -> None:
    """Otherwise the tests above would test nothing."""
    assert set(type_tags(wire.ContentBlockParam)) > ACCEPTED | {"server_tool_use", "container_upload"}
    assert {"web_search_20250305", "code_execution_20250825"} <= set(type_tags(wire.ToolUnionParam))


@pytest.mark.parametrize(
    "blocks",
    [
        [{"type": "image", "source": {"type": "file", "file_id": "file_1"}}],
        [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1d"}}],
        [{"type": "text", "text": "a", "something": "new"}],
        [{"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}}],
        [{"type": "document", "source": {"type": "file", "file_id": "file_1"}}],
        [{"type": "tool_use", "id": "t", "name": "n", "input": {}, "caller": {"type": "code_execution_20250825"}}],
    ],
)
def test_file_references_longer_caches_and_unknown_fields_are_refused(blocks: list[dict[str, Any]]) -> None:
    with pytest.raises(UnsupportedParameter):
        messages.input_size_of(fields(messages=message_of(*blocks)))


@pytest.mark.parametrize("url", ["http://10.0.0.1/a.png", "file:///etc/passwd", "data:application/pdf;base64,AA", ""])
def test_an_image_url_must_be_https(url: str) -> None:
    """Also in the result of a tool."""
    image = {"type": "image", "source": {"type": "url", "url": url}}
    tool_result = {"type": "tool_result", "tool_use_id": "t", "content": [image]}
    for block, path in ((image, ""), (tool_result, ".content[0]")):
        with pytest.raises(UnsupportedParameter) as refused:
            messages.input_size_of(fields(messages=message_of(block)))
        assert refused.value.parameter == f"messages[0].content[0]{path}.source.url"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "metadata.internal", "me:secret@example.com"])
def test_an_image_url_must_name_a_public_host(host: str) -> None:
    """Also in the result of a tool."""
    image = {"type": "image", "source": {"type": "url", "url": f"https://{host}/a.png"}}
    tool_result = {"type": "tool_result", "tool_use_id": "t", "content": [image]}
    for block, path in ((image, ""), (tool_result, ".content[0]")):
        with pytest.raises(InvalidRequest, match="must name a public host") as refused:
            messages.input_size_of(fields(messages=message_of(block)))
        assert refused.value.parameter == f"messages[0].content[0]{path}.source.url"
        assert host not in refused.value.detail


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"messages": None},
        {"messages": []},
        {"messages": "hello"},
        {"messages": [{"role": "user"}]},
        {"messages": message_of({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": 7}})},
        {"messages": message_of({"type": "tool_use", "id": "t", "name": "n", "input": []})},
        {"messages": HELLO, "system": 5},
        {"messages": HELLO, "tools": {}},
        {"messages": HELLO, "thinking": "disabled"},
        {"messages": HELLO, "thinking": {"budget_tokens": 2000}},
    ],
)
def test_a_malformed_request_is_invalid(document: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        messages.input_size_of(fields(**document))


@pytest.mark.parametrize(
    "document",
    [
        {"tools": [{"name": "weather"}]},
        {"context_management": {"edits": [{"type": "compact_20260112"}]}},
        {"context_management": {"edits": [{"type": "clear_thinking_20251015", "something": "new"}]}},
        {"cache_control": {"type": "ephemeral", "ttl": "1d"}},
        {"tools": [TOOL | {"allowed_callers": ["code_execution_20250825"]}]},
        {"metadata": {"user_id": "u", "team": "x"}},
        {"output_config": {"effort": "low", "task_budget": {"total": 1}}},
        {"system": [{"type": "document"}]},
    ],
)
def test_unknown_fields_of_tools_metadata_config_and_system_are_refused(document: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        messages.input_size_of(fields(messages=HELLO, **document))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
blocks = st.fixed_dictionaries(
    {"type": st.sampled_from([*sorted(ACCEPTED), "tool_reference"]) | json_values},
    optional={
        name: json_values | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": json_values}), max_size=2)
        for name in ("text", "source", "content", "input", "id", "name", "tool_use_id", "cache_control", "title")
    },
)
malformed_messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]) | json_values, "content": st.lists(blocks) | json_values}
)


@given(
    st.dictionaries(st.sampled_from(sorted(messages.PARAMETERS)), json_values, max_size=4),
    st.lists(malformed_messages, max_size=3) | json_values,
)
def test_a_random_request_raises_only_the_documented_errors(document: dict[str, Any], malformed_messages: Any) -> None:
    document = document | {"messages": malformed_messages}
    raw = msgspec.json.decode(msgspec.json.encode(document), type=dict[str, msgspec.Raw])
    with suppress(InputError):
        messages.input_size_of(raw)
    with suppress(InputError):
        messages.read_request(document)


def test_a_deeply_nested_request_is_invalid() -> None:
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
def test_the_deprecated_output_format_is_moved_to_output_config(given: dict[str, Any], passed: dict[str, Any]) -> None:
    renamed = filter_parameters(messages.move_output_format(fields(**given)), messages.PARAMETERS)
    assert {name: orjson.loads(value) for name, value in renamed.items()} == passed


def test_a_format_under_both_names_is_refused() -> None:
    both = fields(output_format=FORMAT, output_config={"format": FORMAT})
    with pytest.raises(UnsupportedParameter) as raised:
        filter_parameters(messages.move_output_format(both), messages.PARAMETERS)
    assert raised.value.parameter == "output_format"


def test_an_output_format_beside_a_malformed_output_config_is_invalid() -> None:
    with pytest.raises(InvalidRequest):
        messages.move_output_format(fields(output_format=FORMAT, output_config="low"))
