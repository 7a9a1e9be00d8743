"""What is left out of a request of the messages format because the provider would host and bill it."""

from typing import Any

import msgspec
import orjson
import pytest

from tollkeeper.dialects import messages
from tollkeeper.dialects.dropped import Dropped
from tollkeeper.dialects.messages.declarations import MAX_BETAS
from tollkeeper.dialects.parameters import filter_parameters
from tollkeeper.errors import UnsupportedParameter

OWN = {"name": "weather", "input_schema": {"type": "object"}}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
FETCH = {"type": "web_fetch_20250910", "name": "web_fetch"}
HELLO = [{"role": "user", "content": "hello"}]


def left_out(**document: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields that are left, and the names of what is not."""
    dropped = Dropped()
    fields = msgspec.json.decode(orjson.dumps(document), type=dict[str, msgspec.Raw])
    kept = messages.leave_out_hosted(fields, dropped)
    return {name: orjson.loads(bytes(value)) for name, value in kept.items()}, dropped.names


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("web_search_20250305", "web_search"),
        ("web_search_20260209", "web_search"),
        ("web_fetch_20250910", "web_fetch"),
        ("code_execution_20250825", "code_execution"),
        ("tool_search_tool_regex_20251119", "tool_search_tool"),
        ("tool_search_tool_bm25", "tool_search_tool"),
    ],
)
def test_a_hosted_tool_that_is_only_declared_is_left_out_and_named(kind: str, name: str) -> None:
    kept, names = left_out(messages=HELLO, tools=[OWN, {"type": kind, "name": name}], tool_choice={"type": "auto"})
    assert kept == {"messages": HELLO, "tools": [OWN], "tool_choice": {"type": "auto"}}
    assert names == (name,)


def test_without_a_tool_left_the_tool_choice_is_left_out_too() -> None:
    assert left_out(messages=HELLO, tools=[SEARCH, FETCH], tool_choice={"type": "auto"}) == (
        {"messages": HELLO},
        ("web_search", "web_fetch"),
    )


@pytest.mark.parametrize(
    ("tools", "choice"),
    [
        ([OWN, SEARCH], {"type": "tool", "name": "web_search"}),
        ([SEARCH], {"type": "any"}),
    ],
)
def test_a_hosted_tool_that_must_be_used_is_refused(tools: list[Any], choice: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        left_out(messages=HELLO, tools=tools, tool_choice=choice)
    assert refused.value.parameter == "tool_choice"


@pytest.mark.parametrize(
    "kind", ["bash_20250124", "text_editor_20250728", "computer_20250124", "custom", "my_web_search"]
)
def test_another_tool_is_left_as_it_is(kind: str) -> None:
    tools = [{"type": kind, "name": "x"}]
    assert left_out(messages=HELLO, tools=tools) == ({"messages": HELLO, "tools": tools}, ())


def test_earlier_calls_of_hosted_tools_and_their_results_are_left_out_of_the_history() -> None:
    text, own = {"type": "text", "text": "Found."}, {"type": "tool_use", "id": "t", "name": "weather", "input": {}}
    call = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}}
    result = {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}
    own_result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "wet"}]}
    history = [*HELLO, {"role": "assistant", "content": [call, result, text, own]}, own_result]
    kept, names = left_out(messages=[*history, {"role": "assistant", "content": [call]}])
    assert kept["messages"] == [*HELLO, {"role": "assistant", "content": [text, own]}, own_result]
    assert names == ("server_tool_use",)


@pytest.mark.parametrize(
    "document",
    [
        {"tools": "x"},
        {"tools": [1]},
        {"tools": [SEARCH], "tool_choice": "auto"},
        {"messages": '"server_tool_use"'},
        {"messages": [{"role": "user", "content": ["server_tool_use", '"server_tool_use"']}]},
        {"messages": [{"role": "user", "content": 'a "server_tool_use" in a text'}]},
    ],
)
def test_what_cannot_be_read_is_left_as_it_is(document: dict[str, Any]) -> None:
    assert left_out(**document) == (document, ())


def test_betas_that_change_no_price_are_allowed_and_others_are_dropped_by_one_name() -> None:
    dropped = Dropped()
    sent = [b"claude-code-20250219, interleaved-thinking-2025-05-14", b"context-1m-2025-08-07,claude-code-20250219"]
    assert messages.allowed_betas(sent, dropped) == "claude-code-20250219,interleaved-thinking-2025-05-14"
    assert dropped.names == ("anthropic-beta",)


@pytest.mark.parametrize("value", [b"", b",", b"effort-2025-11-24", b"effort-2025-11-24,"])
def test_nothing_is_named_if_every_beta_is_allowed(value: bytes) -> None:
    dropped = Dropped()
    assert messages.allowed_betas([value], dropped) in {"", "effort-2025-11-24"}
    assert dropped.names == ()


def test_many_betas_are_not_all_read() -> None:
    values = [b"x," * MAX_BETAS + b"effort-2025-11-24"]
    assert messages.allowed_betas(values, Dropped()) == ""


@pytest.mark.parametrize("kind", ["clear_thinking_20251015", "clear_tool_uses_20250919"])
def test_edits_that_only_remove_input_are_passed_on(kind: str) -> None:
    edits = {"edits": [{"type": kind, "keep": "all"}]}
    fields = msgspec.json.decode(
        orjson.dumps({"messages": HELLO, "context_management": edits}), type=dict[str, msgspec.Raw]
    )
    assert messages.input_size_of(fields).messages == 1
    assert orjson.loads(filter_parameters(fields, messages.PARAMETERS)["context_management"]) == edits


def test_diagnostics_are_left_out_and_named() -> None:
    dropped = Dropped()
    fields = {"diagnostics": msgspec.Raw(b'{"previous_message_id": "msg_1"}')}
    assert filter_parameters(fields, messages.PARAMETERS, dropped) == {}
    assert dropped.names == ("diagnostics",)
