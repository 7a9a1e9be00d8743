"""KnownFields: objects in a request whose unknown fields are refused. The SDKs' types define the known fields."""

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, get_args

import anthropic.types as claude
import anthropic.types.beta as beta
import msgspec
import orjson
import pytest
from openai.types.chat import (
    ChatCompletionFunctionCallOptionParam,
    ChatCompletionToolChoiceOptionParam,
)
from openai.types.responses import (
    ResponseTextConfigParam,
    ToolChoiceAllowedParam,
    ToolChoiceCustomParam,
    ToolChoiceFunctionParam,
    response_create_params,
)
from openai.types.shared_params import Reasoning
from typing_extensions import get_type_hints, is_typeddict

from tollkeeper.dialects import chat, messages, responses
from tollkeeper.dialects.parameters import FieldTree, KnownFields, filter_parameters
from tollkeeper.errors import UnsupportedParameter


def fields_of(*kinds: Any) -> FieldTree:
    """The fields of objects of any of these types of an SDK."""
    found: dict[str, list[Any]] = {}
    for kind in kinds:
        for name, hint in get_type_hints(kind).items():
            found.setdefault(name, []).extend(one for one in (hint, *get_args(hint)) if is_typeddict(one))
    return {name: fields_of(*inner) if inner else None for name, inner in found.items()}


def members(union: Any) -> Iterable[Any]:
    """The types of a union that are objects."""
    return [kind for kind in get_args(union) if is_typeddict(kind)]


SDK_TYPES: dict[tuple[ModuleType, str], Iterable[Any]] = {
    (chat, "tool_choice"): members(ChatCompletionToolChoiceOptionParam),
    (chat, "function_call"): [ChatCompletionFunctionCallOptionParam],
    (responses, "image"): [response_create_params.Image],
    (responses, "reasoning"): [Reasoning],
    (responses, "stream_options"): [response_create_params.StreamOptions],
    (responses, "text"): [ResponseTextConfigParam],
    (responses, "tool_choice"): [ToolChoiceAllowedParam, ToolChoiceFunctionParam, ToolChoiceCustomParam],
    (messages, "thinking"): [*members(claude.ThinkingConfigParam), *members(beta.BetaThinkingConfigParam)],
    (messages, "tool_choice"): [*members(claude.ToolChoiceParam), *members(beta.BetaToolChoiceParam)],
}
"""The SDKs' types of each parameter. Of the `tool_choice` types of the Responses API, only those that are accepted."""
UNCHECKED = {(messages, "thinking"): ("block_binding",)}
"""Fields whose content the provider checks, although the SDK's types define it."""


def known_field_rules() -> dict[tuple[ModuleType, str], KnownFields]:
    rules = {(wire, name): rule for wire in (chat, responses, messages) for name, rule in wire.PARAMETERS.items()}
    return {which: rule for which, rule in rules.items() if isinstance(rule, KnownFields)}


def passed_fields(wire: ModuleType, name: str, value: Any) -> Mapping[str, bytes]:
    fields = msgspec.json.decode(orjson.dumps({name: value}), type=dict[str, msgspec.Raw])
    return filter_parameters(fields, wire.PARAMETERS)


def test_exactly_the_fields_of_the_sdks_types_are_known() -> None:
    assert known_field_rules().keys() == SDK_TYPES.keys()
    for which, rule in known_field_rules().items():
        fields = dict(fields_of(*SDK_TYPES[which]))
        fields |= dict.fromkeys(UNCHECKED.get(which, ()))
        assert rule.fields == fields, which


def object_paths(fields: FieldTree) -> Iterable[tuple[str, ...]]:
    """The paths of the objects whose fields are known: the object itself, and those in it."""
    yield ()
    for name, inner in fields.items():
        if inner is not None:
            yield from ((name, *path) for path in object_paths(inner))


def nest(path: tuple[str, ...], value: Any) -> Any:
    """Objects in objects, with the value at this path."""
    for name in reversed(path):
        value = {name: value}
    return value


OBJECTS = [
    (wire, name, path) for (wire, name), rule in known_field_rules().items() for path in object_paths(rule.fields)
]


def test_nested_objects_are_among_the_examples() -> None:
    """Otherwise the tests below would test only the outermost objects."""
    assert (chat, "tool_choice", ("allowed_tools",)) in OBJECTS
    assert (responses, "text", ("format",)) in OBJECTS


@pytest.mark.parametrize(("wire", "name", "path"), OBJECTS)
def test_an_unknown_field_is_refused_by_its_path(wire: ModuleType, name: str, path: tuple[str, ...]) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        passed_fields(wire, name, nest((*path, "unknown"), 1))
    assert refused.value.parameter == ".".join((name, *path, "unknown"))
    assert passed_fields(wire, name, nest((*path, "unknown"), None)).keys() <= {name}


@pytest.mark.parametrize(
    ("wire", "name", "value"),
    [
        (chat, "response_format", {"type": "json_schema", "json_schema": {"name": "n", "schema": {"x": {"y": 1}}}}),
        (chat, "tool_choice", {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"x": 1}]}}),
        (chat, "tool_choice", "auto"),
        (chat, "response_format", {"type": "json_schema", "json_schema": "nonsense"}),
        (chat, "messages", [{"role": "user", "content": "hi", "x": {"y": 1}}]),
        (chat, "tools", [{"type": "function", "function": {"name": "f", "x": 1}, "x": 1}]),
        (responses, "text", {"format": {"type": "json_schema", "name": "n", "schema": {"x": 1}}, "verbosity": "low"}),
        (responses, "input", [{"role": "user", "content": "hi", "x": {"y": 1}}]),
        (responses, "metadata", {"x": "1"}),
        (responses, "tools", [{"type": "function", "name": "f", "x": 1}]),
        (messages, "thinking", {"type": "adaptive", "block_binding": {"x": 1}}),
    ],
)
def test_fields_defined_by_the_caller_are_passed_unchanged(wire: ModuleType, name: str, value: Any) -> None:
    assert passed_fields(wire, name, value) == {name: orjson.dumps(value)}


def test_a_translated_request_refuses_unknown_fields_too() -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        responses.read_request({"input": "Hi", "text": {"format": {"type": "text", "unknown": 1}}})
    assert refused.value.parameter == "text.format.unknown"
