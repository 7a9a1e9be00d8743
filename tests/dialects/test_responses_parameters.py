"""Requests on the Responses wire: what passes, what is refused, and how much is asked."""

from typing import Any, get_args, get_type_hints

import msgspec
import orjson
import pytest
from openai.types.responses import response_create_params as sdk
from openai.types.responses import tool_param

from tollkeeper.chat import ChatRequest, Message
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.dialects.parameters import REFUSE, filter_parameters
from tollkeeper.dialects.responses import PARAMETERS, input_size_of, read_request, strip_item_ids
from tollkeeper.errors import InvalidRequest, UnsupportedParameter

PICTURE = "data:image/png;base64,iVBORw0KGgo="
LOOKUP = {"type": "function", "name": "lookup", "parameters": {"type": "object"}, "strict": True}


def fields_of(document: dict[str, Any]) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(orjson.dumps(document), type=dict[str, msgspec.Raw])


def shape(**document: Any) -> InputSize:
    return input_size_of(fields_of(document))


def in_message(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def test_every_parameter_that_openai_knows_is_classed_and_no_other() -> None:
    hints = get_type_hints(sdk.ResponseCreateParamsStreaming)
    assert set(PARAMETERS) == set(hints)


REFUSED = {
    "access_programs": {"cyber": "daybreak_red"},
    "background": True,
    "context_management": [{"type": "compaction"}],
    "conversation": "conv_1",
    "moderation": {"model": "omni-moderation-latest"},
    "previous_response_id": "resp_1",
    "prompt": {"id": "pmpt_1"},
    "prompt_cache_retention": "24h",
    "service_tier": "priority",
    "store": True,
    "truncation": "head",
    "made_up": 1,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_unbounded_or_kept_at_the_provider_is_refused_from_both_sides(name: str) -> None:
    document = {"input": "Hi", name: REFUSED[name]}
    with pytest.raises(UnsupportedParameter) as raw:
        filter_parameters(fields_of(document), PARAMETERS)
    with pytest.raises(UnsupportedParameter) as read:
        read_request(document)
    assert raw.value.parameter == read.value.parameter == name


def test_every_refused_parameter_is_among_the_examples() -> None:
    assert {name for name, rule in PARAMETERS.items() if rule is REFUSE} <= set(REFUSED)


def test_a_null_parameter_counts_as_absent() -> None:
    document = {"input": "Hi", **dict.fromkeys(REFUSED)}
    assert filter_parameters(fields_of(document), PARAMETERS) == {"input": b'"Hi"'}
    assert read_request(document) == ChatRequest((Message("user", "Hi"),))


def test_what_says_how_to_deliver_and_what_is_kept_is_not_passed_on() -> None:
    ours = {"model": "m", "max_output_tokens": 5, "stream": True, "stream_options": {}, "store": False}
    assert filter_parameters(fields_of({**ours, "background": False, "top_p": 0.5}), PARAMETERS) == {"top_p": b"0.5"}


HOSTED = [
    "web_search",
    "web_search_preview",
    "file_search",
    "code_interpreter",
    "computer",
    "computer_use_preview",
    "mcp",
    "image_generation",
    "local_shell",
    "shell",
    "apply_patch",
    "namespace",
    "tool_search",
    "programmatic_tool_calling",
]


@pytest.mark.parametrize("kind", HOSTED)
def test_a_hosted_tool_is_refused(kind: str) -> None:
    for document in ({"tools": [LOOKUP, {"type": kind}]}, {"tool_choice": {"type": kind}}):
        with pytest.raises(UnsupportedParameter) as raw:
            shape(input="Hi", **document)
        with pytest.raises(UnsupportedParameter) as read:
            read_request({"input": "Hi", **document})
        assert raw.value.parameter == read.value.parameter == next(iter(document))


def test_every_tool_that_openai_knows_is_tried_above_or_passes() -> None:
    kinds = {
        kind
        for tool in get_args(tool_param.ToolParam)
        for kind in get_args(get_args(get_type_hints(tool, include_extras=True)["type"])[0])
    }
    assert {"function", "custom"} < kinds
    for kind in kinds - {"function", "custom"}:
        with pytest.raises(UnsupportedParameter):
            shape(input="Hi", tools=[{"type": kind}])
    assert set(HOSTED) <= kinds


@pytest.mark.parametrize(
    "item",
    [
        {"type": "item_reference", "id": "msg_1"},
        {"id": "msg_1"},
        {"type": None, "id": "msg_1"},
        {"type": "message", "id": "msg_1"},
        {"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot"}},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {}},
        {"type": "mcp_call", "id": "m", "arguments": "{}", "name": "n", "server_label": "s"},
        {"type": "compaction", "encrypted_content": "x"},
        {"type": "compaction_trigger"},
        {"type": "configuration_update", "reasoning": {"effort": "max"}},
        {"type": "additional_tools", "role": "developer", "tools": [{"type": "web_search"}]},
        {"role": "user", "content": [{"type": "input_file", "file_url": "https://example.org/1.pdf"}]},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "mp3"}}]},
        {"role": "user", "content": [{"type": "input_image", "file_id": "file_1"}]},
        {"role": "user", "content": [{"type": "input_image", "image_url": PICTURE, "file_id": "file_1"}]},
        {"role": "user", "content": [{"type": "input_image", "image_url": PICTURE, "detail": "original"}]},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_file", "file_id": "file_1"}]},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "12h"}}
            ],
        },
    ],
)
def test_what_refers_to_something_kept_or_is_not_priced_is_no_item(item: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedParameter) as raw:
        shape(input=[{"role": "user", "content": "Hi"}, item])
    with pytest.raises(UnsupportedParameter) as read:
        read_request({"input": [{"role": "user", "content": "Hi"}, item]})
    assert raw.value.parameter == read.value.parameter == "input"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("include", ["web_search_call.action.sources"]),
        ("include", ["reasoning.encrypted_content", "made.up"]),
        ("reasoning", {"mode": "pro"}),
        ("prompt_cache_options", {"ttl": "12h"}),
        ("prompt_cache_options", {"prewarm": True}),
        ("prompt_cache_options", {"comparison_response_id": "resp_1"}),
        ("tool_choice", {"type": "mcp", "server_label": "s"}),
        ("tool_choice", {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}),
    ],
)
def test_what_costs_or_is_kept_inside_of_a_parameter_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UnsupportedParameter) as raised:
        shape(input="Hi", **{name: value})
    assert raised.value.parameter == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("include", ["reasoning.encrypted_content", "message.output_text.logprobs"]),
        ("reasoning", {"effort": "high", "summary": "auto", "mode": "standard"}),
        ("prompt_cache_options", {"mode": "explicit", "ttl": "30m", "prewarm": False}),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "custom", "name": "sql"}),
        ("tool_choice", {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}),
        ("input", [{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}]),
        ("input", [{"type": "custom_tool_call_output", "call_id": "c", "output": "x"}]),
    ],
)
def test_what_costs_nothing_more_passes(name: str, value: Any) -> None:
    assert shape(**{"input": "Hi", name: value}) == InputSize(messages=1)


def test_a_text_is_one_message_and_instructions_are_another() -> None:
    assert shape(input="Hi") == InputSize(messages=1)
    assert shape(input="Hi", instructions="Be kind.") == InputSize(messages=2)


def test_every_item_counts_and_only_the_bytes_of_pictures_that_are_sent_along_do() -> None:
    asked = [
        *in_message({"type": "input_image", "image_url": PICTURE}, {"type": "input_text", "text": PICTURE}),
        *in_message({"type": "input_image", "image_url": "https://example.org/1.png", "detail": "low"}),
        {"type": "function_call", "call_id": "c", "name": "draw", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": PICTURE}]},
    ]
    counted = shape(input=asked, tools=[LOOKUP])
    assert counted == InputSize(messages=4, images=3, image_bytes=2 * len("iVBORw0KGgo="), tools=True)


@pytest.mark.parametrize("url", ["http://10.0.0.1/a.png", "file:///etc/passwd", "data:application/pdf;base64,AA", ""])
def test_a_picture_is_linked_where_the_internet_is_or_sent_along(url: str) -> None:
    """In what a tool answered too."""
    picture = {"type": "input_image", "image_url": url}
    answered = {"type": "function_call_output", "call_id": "c", "output": [picture]}
    for asked in (in_message(picture), [answered]):
        with pytest.raises(UnsupportedParameter) as raw:
            shape(input=asked)
        with pytest.raises(UnsupportedParameter) as read:
            read_request({"input": asked})
        assert raw.value.parameter == read.value.parameter == "input"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("input", None),
        ("input", 7),
        ("input", [7]),
        ("input", [{"role": "user", "content": 7}]),
        ("tools", {}),
        ("instructions", []),
    ],
)
def test_what_has_another_shape_is_no_request(name: str, value: Any) -> None:
    document = {"input": "Hi", name: value}
    with pytest.raises(InvalidRequest) as raw:
        input_size_of(fields_of(document))
    with pytest.raises(InvalidRequest) as read:
        read_request(document)
    assert raw.value.parameter == read.value.parameter == name


def test_who_refers_to_what_is_kept_is_told_what_to_send_instead() -> None:
    with pytest.raises(UnsupportedParameter, match=r"item_reference.*`store`") as raised:
        shape(input=[{"role": "user", "content": "Hi"}, {"type": "item_reference", "id": "msg_1"}])
    assert raised.value.parameter == "input"


BARE = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm"}]}
SEALED = {**BARE, "encrypted_content": "gAAA"}
THOUGHT = {**BARE, "content": [{"type": "reasoning_text", "text": "Hm"}]}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"}
SAID = {"type": "message", "id": "msg_1", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]}


def without_id(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name != "id"}


@pytest.mark.parametrize(
    ("sent", "passed"),
    [
        ("Hi", "Hi"),
        ('say "id"', 'say "id"'),
        ([{"role": "user", "content": "Hi"}], [{"role": "user", "content": "Hi"}]),
        ([BARE, SAID, CALL], [without_id(SAID), without_id(CALL)]),
        ([{**BARE, "encrypted_content": None, "content": []}, SAID], [without_id(SAID)]),
        ([SEALED, CALL], [SEALED, without_id(CALL)]),
        ([THOUGHT, CALL], [THOUGHT, without_id(CALL)]),
    ],
)
def test_nothing_goes_out_that_leads_to_what_a_provider_would_have_kept(sent: Any, passed: Any) -> None:
    assert orjson.loads(strip_item_ids(orjson.dumps(sent))) == passed


def test_what_leads_nowhere_goes_out_byte_by_byte() -> None:
    sent = b'[ {"role": "user",  "content": "1e3"} ]'
    assert strip_item_ids(sent) is sent
