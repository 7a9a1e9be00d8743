"""What is left out of a request of the responses format, and namespaces of tools in the formats that have none."""

from typing import Any

import msgspec
import orjson
import pytest

from tollkeeper.chat import Completion, Message, ToolCall, ToolCallDelta, ToolResult, Usage
from tollkeeper.dialects import responses
from tollkeeper.dialects.dropped import Dropped
from tollkeeper.dialects.parameters import filter_parameters
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.dialects.responses.namespaces import MAX_NAME_LENGTH, flat_name
from tollkeeper.errors import InvalidRequest, UnsupportedParameter

LOOKUP = {"type": "function", "name": "lookup", "parameters": {"type": "object"}}
SPACE = {"type": "namespace", "name": "mcp__docs", "description": "Docs.", "tools": [LOOKUP]}
CLIENT_SEARCH = {"type": "tool_search", "execution": "client", "description": "Finds tools.", "parameters": {}}
META = ResponseMeta("resp_1", "m", 1)


def fields_of(document: dict[str, Any]) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(orjson.dumps(document), type=dict[str, msgspec.Raw])


def left_out(**document: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields that are left, and the names of what is not."""
    dropped = Dropped()
    kept = responses.leave_out_hosted(fields_of(document), dropped)
    return {name: orjson.loads(bytes(value)) for name, value in kept.items()}, dropped.names


def read(**document: Any) -> tuple[Any, tuple[str, ...]]:
    dropped = Dropped()
    request = responses.read_request({"input": "Hi", **document}, dropped)
    return request, dropped.names


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("web_search", "web_search"),
        ("web_search_2025_08_26", "web_search"),
        ("web_search_preview", "web_search_preview"),
        ("web_search_preview_2025_03_11", "web_search_preview"),
        ("image_generation", "image_generation"),
        ("code_interpreter", "code_interpreter"),
        ("file_search", "file_search"),
        ("mcp", "mcp"),
    ],
)
def test_a_hosted_tool_that_is_only_declared_is_left_out_and_named(kind: str, name: str) -> None:
    kept, names = left_out(input="Hi", tools=[LOOKUP, {"type": kind}], tool_choice="auto")
    assert (kept, names) == ({"input": "Hi", "tools": [LOOKUP], "tool_choice": "auto"}, (name,))


def test_without_a_tool_left_the_tool_choice_is_left_out_too_unless_it_requires_one() -> None:
    tools = [{"type": "web_search"}]
    assert left_out(input="Hi", tools=tools, tool_choice="auto") == ({"input": "Hi"}, ("web_search",))
    with pytest.raises(UnsupportedParameter) as refused:
        left_out(input="Hi", tools=tools, tool_choice="required")
    assert refused.value.parameter == "tool_choice"
    kept, _ = left_out(input="Hi", tools=tools, tool_choice={"type": "web_search"})
    with pytest.raises(UnsupportedParameter):
        responses.input_size_of(fields_of(kept))


def test_the_search_for_tools_is_passed_on_if_the_caller_runs_it() -> None:
    deferred = LOOKUP | {"defer_loading": True}
    tools = [CLIENT_SEARCH, deferred]
    assert left_out(input="Hi", tools=tools) == ({"input": "Hi", "tools": tools}, ())
    assert responses.input_size_of(fields_of({"input": "Hi", "tools": tools})).tools
    hosted = [{"type": "tool_search"}, deferred, SPACE | {"tools": [deferred]}]
    kept, names = left_out(input="Hi", tools=hosted)
    assert (kept["tools"], names) == ([LOOKUP, SPACE], ("tool_search",))


def test_what_hosted_tools_would_include_is_left_out() -> None:
    kept, names = left_out(input="Hi", include=["web_search_call.action.sources", "reasoning.encrypted_content"])
    assert (kept["include"], names) == (["reasoning.encrypted_content"], ("include",))
    assert left_out(input="Hi", include=["code_interpreter_call.outputs"])[0]["include"] == []


def test_a_generated_picture_is_left_out_of_the_history() -> None:
    picture = {"type": "image_generation_call", "result": "aGVsbG8=", "status": "completed"}
    assert left_out(input=[{"role": "user", "content": "Hi"}, picture]) == (
        {"input": [{"role": "user", "content": "Hi"}]},
        ("image_generation_call",),
    )


@pytest.mark.parametrize(
    "document", [{"tools": 1}, {"tools": [1]}, {"include": 1}, {"input": '"image_generation_call"'}, {"input": [1]}]
)
def test_what_cannot_be_read_is_left_as_it_is(document: dict[str, Any]) -> None:
    assert left_out(**document) == (document, ())


def test_client_metadata_is_left_out_and_named() -> None:
    dropped = Dropped()
    fields = fields_of({"client_metadata": {"x-codex-installation-id": "0"}})
    assert filter_parameters(fields, responses.PARAMETERS, dropped) == {}
    assert dropped.names == ("client_metadata",)


HISTORY = [
    {"type": "agent_message", "author": "a", "content": [{"type": "input_text", "text": "Done."}]},
    {"type": "compaction", "encrypted_content": "x"},
    {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "sky"}},
    {"type": "tool_search_call", "call_id": "s", "execution": "client", "arguments": {"query": "docs"}},
    {"type": "tool_search_output", "call_id": "s", "execution": "client", "tools": [SPACE]},
    {"type": "additional_tools", "role": "developer", "tools": [LOOKUP | {"name": "later"}]},
    {"type": "function_call", "call_id": "c", "namespace": "mcp__docs", "name": "lookup", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "found"},
]


def test_replayed_items_that_are_only_input_are_accepted() -> None:
    size = responses.input_size_of(fields_of({"input": HISTORY}))
    assert (size.messages, size.tools) == (len(HISTORY), True)


@pytest.mark.parametrize(
    "item",
    [
        {"type": "compaction_trigger"},
        {"type": "tool_search_output", "call_id": "s", "tools": [{"type": "web_search"}]},
        {"type": "additional_tools", "tools": [SPACE | {"tools": [{"type": "mcp"}]}]},
    ],
)
def test_items_that_would_cost_more_are_refused(item: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedParameter):
        responses.input_size_of(fields_of({"input": [item]}))


def test_a_function_call_with_an_object_for_its_arguments_is_malformed() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "lookup", "arguments": {}}
    with pytest.raises(InvalidRequest):
        responses.input_size_of(fields_of({"input": [call]}))


def test_replayed_items_are_translated_as_far_as_they_can_be_said() -> None:
    request, names = read(input=HISTORY)
    assert request.messages == (
        Message("user", ("Done.",)),
        Message("assistant", (ToolCall("c", "mcp__docs__lookup", "{}"),)),
        Message("user", (ToolResult("c", "found"),)),
    )
    assert [tool.name for tool in request.options.tools] == ["mcp__docs__lookup", "later"]
    assert names == ("compaction", "web_search_call", "tool_search_call", "tool_search_output")


def test_a_message_of_an_agent_without_text_is_left_out_of_a_translation() -> None:
    encrypted = {"type": "agent_message", "content": [{"type": "encrypted_content", "encrypted_content": "x"}]}
    request, names = read(input=[{"role": "user", "content": "Hi"}, encrypted])
    assert (request.messages, names) == ((Message("user", "Hi"),), ("agent_message",))


def test_verbosity_is_a_hint_that_is_left_out_where_the_format_has_no_word_for_it() -> None:
    request, names = read(text={"verbosity": "low"}, tools=[CLIENT_SEARCH, LOOKUP])
    assert [tool.name for tool in request.options.tools] == ["lookup"]
    assert names == ("tool_search", "text.verbosity")


@pytest.mark.parametrize(
    ("namespace", "name", "flat"),
    [
        ("mcp__docs", "lookup", "mcp__docs__lookup"),
        ("functions", "lookup", "lookup"),
        (None, "lookup", "lookup"),
    ],
)
def test_the_name_of_a_tool_begins_with_its_namespace(namespace: str | None, name: str, flat: str) -> None:
    assert flat_name(namespace, name) == flat


def test_long_names_of_tools_stay_different() -> None:
    names = {flat_name("n" * 60, name) for name in ("lookup", "lookup_all", "find")}
    assert (len(names), {len(name) for name in names}) == (3, {MAX_NAME_LENGTH})


def test_the_tools_in_namespaces_are_found_in_the_tools_and_in_the_input() -> None:
    fields = fields_of({"tools": [LOOKUP, SPACE, SPACE | {"name": "functions"}], "input": HISTORY})
    assert responses.namespaced_tools(fields) == {"mcp__docs__lookup": ("mcp__docs", "lookup")}
    assert responses.namespaced_tools(fields_of({"tools": [LOOKUP], "input": "namespace"})) == {}
    assert responses.namespaced_tools({"tools": msgspec.Raw(b'["namespace"]')}) == {}


def test_a_call_of_a_tool_in_a_namespace_has_its_namespace_apart_whole_and_streamed() -> None:
    tool_names = {"mcp__docs__lookup": responses.ToolName("mcp__docs", "lookup")}
    call = ToolCall("c", "mcp__docs__lookup", "{}")
    whole = responses.write_answer(Completion("", "tool_calls", None, (call,)), META, Usage(1, 1), tool_names)
    (item,) = orjson.loads(whole)["output"]
    writer = responses.StreamWriter(META, tool_names)
    writer.write(ToolCallDelta(0, "c", "mcp__docs__lookup", "{}"))
    end = writer.end("tool_calls", Usage(1, 1)).decode()
    (streamed,) = orjson.loads(end.rpartition("data: ")[2])["response"]["output"]
    assert streamed == item
    assert (item["namespace"], item["name"], item["arguments"]) == ("mcp__docs", "lookup", "{}")


def test_a_call_that_the_provider_began_keeps_its_namespace() -> None:
    writer = responses.StreamWriter(META)
    item = {"id": "fc_1", "type": "function_call", "call_id": "c", "name": "lookup", "namespace": "mcp__docs"}
    writer.resume_item(0, item)
    assert b'"namespace":"mcp__docs"' in writer.end("length", Usage(1, 1))
