"""Parameters, tools and items of the responses format: which are accepted, and the size of the input."""

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

INLINE_IMAGE = "data:image/png;base64,iVBORw0KGgo="
LOOKUP = {"type": "function", "name": "lookup", "parameters": {"type": "object"}, "strict": True}


def fields_of(document: dict[str, Any]) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(orjson.dumps(document), type=dict[str, msgspec.Raw])


def input_size(**document: Any) -> InputSize:
    return input_size_of(fields_of(document))


def in_message(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def test_exactly_the_parameters_of_the_sdk_have_a_rule() -> None:
    hints = get_type_hints(sdk.ResponseCreateParamsStreaming)
    assert set(PARAMETERS) == set(hints) | {"client_metadata"}


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
    "unknown_parameter": 1,
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_unbounded_or_storing_parameter_is_refused_raw_and_translated(name: str) -> None:
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


def test_delivery_and_storage_parameters_are_not_passed_on() -> None:
    ours = {"model": "m", "max_output_tokens": 5, "stream": True, "stream_options": {}, "store": False}
    assert filter_parameters(fields_of({**ours, "background": False, "top_p": 0.5}), PARAMETERS) == {"top_p": b"0.5"}


HOSTED_TOOLS = [
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
    "tool_search",
    "programmatic_tool_calling",
]


@pytest.mark.parametrize("kind", HOSTED_TOOLS)
def test_a_hosted_tool_is_refused(kind: str) -> None:
    for document in ({"tools": [LOOKUP, {"type": kind}]}, {"tool_choice": {"type": kind}}):
        with pytest.raises(UnsupportedParameter) as raw:
            input_size(input="Hi", **document)
        with pytest.raises(UnsupportedParameter) as read:
            read_request({"input": "Hi", **document})
        assert raw.value.parameter == read.value.parameter == next(iter(document))


def test_every_tool_of_the_sdk_is_tested_above_or_accepted() -> None:
    kinds = {
        kind
        for tool in get_args(tool_param.ToolParam)
        for kind in get_args(get_args(get_type_hints(tool, include_extras=True)["type"])[0])
    }
    assert {"function", "custom"} < kinds
    for kind in kinds - {"function", "custom", "namespace"}:
        with pytest.raises(UnsupportedParameter):
            input_size(input="Hi", tools=[{"type": kind}])
    assert set(HOSTED_TOOLS) <= kinds


@pytest.mark.parametrize(
    "item",
    [
        {"type": "item_reference", "id": "msg_1"},
        {"id": "msg_1"},
        {"type": None, "id": "msg_1"},
        {"type": "message", "id": "msg_1"},
        {"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot"}},
        {"type": "mcp_call", "id": "m", "arguments": "{}", "name": "n", "server_label": "s"},
        {"type": "compaction_trigger"},
        {"type": "configuration_update", "reasoning": {"effort": "max"}},
        {"type": "additional_tools", "role": "developer", "tools": [{"type": "web_search"}]},
        {"role": "user", "content": [{"type": "input_file", "file_url": "https://example.org/1.pdf"}]},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "mp3"}}]},
        {"role": "user", "content": [{"type": "input_image", "file_id": "file_1"}]},
        {"role": "user", "content": [{"type": "input_image", "image_url": INLINE_IMAGE, "file_id": "file_1"}]},
        {"role": "user", "content": [{"type": "input_image", "image_url": INLINE_IMAGE, "detail": "original"}]},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_file", "file_id": "file_1"}]},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "12h"}}
            ],
        },
    ],
)
def test_items_that_refer_to_stored_data_or_have_no_price_are_refused(item: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedParameter) as raw:
        input_size(input=[{"role": "user", "content": "Hi"}, item])
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
def test_fields_of_a_parameter_that_cost_more_or_store_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UnsupportedParameter) as raised:
        input_size(input="Hi", **{name: value})
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
def test_fields_that_cost_nothing_more_are_accepted(name: str, value: Any) -> None:
    assert input_size(**{"input": "Hi", name: value}) == InputSize(messages=1)


def test_a_text_counts_as_one_message_and_instructions_as_another() -> None:
    assert input_size(input="Hi") == InputSize(messages=1)
    assert input_size(input="Hi", instructions="Be kind.") == InputSize(messages=2)


def test_every_item_counts_but_only_inline_images_have_bytes() -> None:
    items = [
        *in_message({"type": "input_image", "image_url": INLINE_IMAGE}, {"type": "input_text", "text": INLINE_IMAGE}),
        *in_message({"type": "input_image", "image_url": "https://example.org/1.png", "detail": "low"}),
        {"type": "function_call", "call_id": "c", "name": "draw", "arguments": "{}"},
        {
            "type": "function_call_output",
            "call_id": "c",
            "output": [{"type": "input_image", "image_url": INLINE_IMAGE}],
        },
    ]
    size = input_size(input=items, tools=[LOOKUP])
    assert size == InputSize(messages=4, images=3, image_bytes=2 * len("iVBORw0KGgo="), tools=True)


@pytest.mark.parametrize("url", ["http://10.0.0.1/a.png", "file:///etc/passwd", "data:application/pdf;base64,AA", ""])
def test_an_image_must_be_an_https_url_or_inline(url: str) -> None:
    """Also in the output of a tool."""
    image = {"type": "input_image", "image_url": url}
    tool_output = {"type": "function_call_output", "call_id": "c", "output": [image]}
    for items in (in_message(image), [tool_output]):
        with pytest.raises(UnsupportedParameter) as raw:
            input_size(input=items)
        with pytest.raises(UnsupportedParameter) as read:
            read_request({"input": items})
        assert raw.value.parameter == read.value.parameter == "input"


def test_the_url_of_an_image_must_name_a_public_host() -> None:
    """Also in the output of a tool."""
    image = {"type": "input_image", "image_url": "https://127.0.0.1/a.png"}
    tool_output = {"type": "function_call_output", "call_id": "c", "output": [image]}
    for items in (in_message(image), [tool_output]):
        with pytest.raises(InvalidRequest, match="must name a public host") as refused:
            input_size(input=items)
        assert refused.value.parameter == "input"


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
def test_a_parameter_of_another_type_is_invalid(name: str, value: Any) -> None:
    document = {"input": "Hi", name: value}
    with pytest.raises(InvalidRequest) as raw:
        input_size_of(fields_of(document))
    with pytest.raises(InvalidRequest) as read:
        read_request(document)
    assert raw.value.parameter == read.value.parameter == name


def test_the_error_for_an_item_reference_explains_that_nothing_is_stored() -> None:
    with pytest.raises(UnsupportedParameter, match=r"item_reference.*`store`") as raised:
        input_size(input=[{"role": "user", "content": "Hi"}, {"type": "item_reference", "id": "msg_1"}])
    assert raised.value.parameter == "input"


BARE_REASONING = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm"}]}
ENCRYPTED_REASONING = {**BARE_REASONING, "encrypted_content": "gAAA"}
READABLE_REASONING = {**BARE_REASONING, "content": [{"type": "reasoning_text", "text": "Hm"}]}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"}
MESSAGE = {"type": "message", "id": "msg_1", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]}


def without_id(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name != "id"}


@pytest.mark.parametrize(
    ("items_sent", "items_passed"),
    [
        ("Hi", "Hi"),
        ('say "id"', 'say "id"'),
        ([{"role": "user", "content": "Hi"}], [{"role": "user", "content": "Hi"}]),
        ([BARE_REASONING, MESSAGE, CALL], [without_id(MESSAGE), without_id(CALL)]),
        ([{**BARE_REASONING, "encrypted_content": None, "content": []}, MESSAGE], [without_id(MESSAGE)]),
        ([ENCRYPTED_REASONING, CALL], [ENCRYPTED_REASONING, without_id(CALL)]),
        ([READABLE_REASONING, CALL], [READABLE_REASONING, without_id(CALL)]),
    ],
)
def test_item_ids_that_refer_to_stored_data_are_removed(items_sent: Any, items_passed: Any) -> None:
    assert orjson.loads(strip_item_ids(orjson.dumps(items_sent))) == items_passed


def test_items_without_ids_are_passed_byte_for_byte() -> None:
    items_sent = b'[ {"role": "user",  "content": "1e3"} ]'
    assert strip_item_ids(items_sent) is items_sent
