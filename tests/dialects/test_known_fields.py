"""Objects in a request of which every field is known: the clients' own types say which, and others are refused."""

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
    """The fields of objects of any of these kinds, as the client's own types have them."""
    found: dict[str, list[Any]] = {}
    for kind in kinds:
        for name, hint in get_type_hints(kind).items():
            found.setdefault(name, []).extend(one for one in (hint, *get_args(hint)) if is_typeddict(one))
    return {name: fields_of(*inner) if inner else None for name, inner in found.items()}


def members(union: Any) -> Iterable[Any]:
    """Those of a union that are objects."""
    return [kind for kind in get_args(union) if is_typeddict(kind)]


CLIENTS: dict[tuple[ModuleType, str], Iterable[Any]] = {
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
"""Of the choices of a tool on the Responses wire, those that may be made here."""
NOT_WALKED = {(messages, "thinking"): ("block_binding",)}
"""What is left to the provider, though the client knows what is in it."""


def known() -> dict[tuple[ModuleType, str], KnownFields]:
    rules = {(wire, name): rule for wire in (chat, responses, messages) for name, rule in wire.PARAMETERS.items()}
    return {which: rule for which, rule in rules.items() if isinstance(rule, KnownFields)}


def sort(wire: ModuleType, name: str, value: Any) -> Mapping[str, bytes]:
    fields = msgspec.json.decode(orjson.dumps({name: value}), type=dict[str, msgspec.Raw])
    return filter_parameters(fields, wire.PARAMETERS)


def test_every_field_of_the_clients_types_is_known_and_no_other() -> None:
    assert known().keys() == CLIENTS.keys()
    for which, rule in known().items():
        fields = dict(fields_of(*CLIENTS[which]))
        fields |= dict.fromkeys(NOT_WALKED.get(which, ()))
        assert rule.fields == fields, which


def places(fields: FieldTree) -> Iterable[tuple[str, ...]]:
    """Where objects are whose fields are known: the object itself, and those in it."""
    yield ()
    for name, inner in fields.items():
        if inner is not None:
            yield from ((name, *place) for place in places(inner))


def put(place: tuple[str, ...], value: Any) -> Any:
    for name in reversed(place):
        value = {name: value}
    return value


DEEP = [(wire, name, place) for (wire, name), rule in known().items() for place in places(rule.fields)]


def test_objects_within_objects_are_among_the_examples() -> None:
    """Else the tests below prove less than they say."""
    assert (chat, "tool_choice", ("allowed_tools",)) in DEEP
    assert (responses, "text", ("format",)) in DEEP


@pytest.mark.parametrize(("wire", "name", "place"), DEEP)
def test_another_field_is_refused_by_its_place(wire: ModuleType, name: str, place: tuple[str, ...]) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        sort(wire, name, put((*place, "made_up"), 1))
    assert refused.value.parameter == ".".join((name, *place, "made_up"))
    assert sort(wire, name, put((*place, "made_up"), None)).keys() <= {name}


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
def test_what_callers_have_written_themselves_goes_out_as_it_came(wire: ModuleType, name: str, value: Any) -> None:
    assert sort(wire, name, value) == {name: orjson.dumps(value)}


def test_a_translation_refuses_them_too() -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        responses.read_request({"input": "Hi", "text": {"format": {"type": "text", "made_up": 1}}})
    assert refused.value.parameter == "text.format.made_up"
