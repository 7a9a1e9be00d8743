"""The texts of a request that a tokenizer counts: all text that the model reads, but no images."""

from collections import Counter
from typing import Any

import orjson
import pytest

from tollkeeper.chat import ChatRequest, Message, Options, Tool
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.providers.base import CallInput, RawRequest, Wire
from tollkeeper.providers.input_texts import input_texts

REQUEST = ChatRequest((Message("user", "as a ChatRequest"),), Options(tools=(Tool("look_up", "Looks it up.", None),)))
READ = "this is read"
"""A text that the model reads. Wherever it is in a request, it must be counted once."""
INLINE_IMAGE = "data:image/png;base64," + "A" * 100


def counted_texts(wire: Wire, **fields: Any) -> Counter[str]:
    raw = RawRequest(wire, {name: orjson.dumps(value) for name, value in fields.items()}, InputSize(1))
    return Counter(input_texts(CallInput(lambda: REQUEST, raw))())


def chat(message: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [message]}


def part(**fields: Any) -> dict[str, Any]:
    return chat({"role": "user", "content": [fields]})


def item(**fields: Any) -> dict[str, Any]:
    return {"input": [fields]}


CHAT: list[dict[str, Any]] = [
    chat({"role": "user", "content": READ}),
    chat({"role": "user", "name": READ, "content": "hi"}),
    chat({"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": READ}}),
    chat({"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": READ}}]}),
    chat({"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": READ}}]}),
    chat({"role": "tool", "tool_call_id": "1", "content": READ}),
    chat({"role": "assistant", "content": "x", "reasoning_content": READ}),
    chat({"role": "assistant", "content": "x", "unknown": {"deep": [[READ]]}}),
    chat({"role": "assistant", "content": "x", "refusal": READ}),
    chat({"role": "user", "content": "x", READ: 1}),
    chat({"role": READ * 10, "content": "x"}),
    part(type="text", text=READ),
    part(type="refusal", text="x", refusal=READ),
    part(type="text", text=READ, image_url={"url": "https://x"}),
    part(type="image_url", text=READ, image_url={"url": "https://x"}),
    part(type="unknown", unknown=READ),
    {"tools": [{"type": "function", "function": {"name": "f", "description": READ}}]},
    {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {READ: {}}}}}]},
    {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "image", "source": READ}}}]},
    {"functions": [{"name": "f", "description": READ}]},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "description": READ}}},
    {"response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": [READ]}}}},
]
RESPONSES: list[dict[str, Any]] = [
    {"input": READ},
    {"instructions": READ},
    item(role="user", content=READ),
    item(role="user", content=[{"type": "input_text", "text": READ}]),
    item(type="reasoning", id="rs_1", summary=[{"type": "summary_text", "text": READ}]),
    item(type="reasoning", id="rs_1", summary=[], content=[{"type": "reasoning_text", "text": READ}]),
    item(type="reasoning", id="rs_1", summary=[], encrypted_content=READ),
    item(type="function_call", call_id="1", name="f", arguments=READ),
    item(type="function_call_output", call_id="1", output=READ),
    item(type="function_call_output", call_id="1", output=[{"type": "input_text", "text": READ}]),
    {"tools": [{"type": "function", "name": "f", "description": READ}]},
    {"text": {"format": {"type": "json_schema", "name": "a", "schema": {"description": READ}}}},
]
MESSAGES: list[dict[str, Any]] = [
    {"system": READ},
    {"system": [{"type": "text", "text": READ}]},
    part(type="thinking", thinking=READ, signature="x"),
    part(type="thinking", thinking="x", signature=READ),
    part(type="redacted_thinking", data=READ),
    part(type="tool_use", id="1", name="f", input={"data": READ}),
    part(type="tool_use", id="1", name="f", input={"url": READ}),
    part(type="tool_use", id="1", name="f", input={"image_url": READ}),
    part(type="tool_use", id="1", name="f", input={"type": "image", "source": {"type": "base64", "data": READ}}),
    part(type="tool_use", id="1", name="f", input={"deep": [{"type": "input_image", "image_url": READ}]}),
    part(type="tool_result", tool_use_id="1", content=READ),
    part(type="tool_result", tool_use_id="1", content=[{"type": "text", "text": READ}]),
    {"tools": [{"name": "f", "input_schema": {"properties": {"image": {"type": "image", "source": READ}}}}]},
    {"output_config": {"format": {"type": "json_schema", "schema": {"title": READ}}}},
]
WIRES = {Wire.CHAT: CHAT, Wire.RESPONSES: RESPONSES, Wire.MESSAGES: MESSAGES}
REQUESTS = [(wire, fields) for wire, requests in WIRES.items() for fields in requests]


@pytest.mark.parametrize(("wire", "fields"), REQUESTS)
def test_every_text_that_a_model_reads_is_counted_once(wire: Wire, fields: dict[str, Any]) -> None:
    texts = counted_texts(wire, **fields)
    assert sum(text.count(READ) * times for text, times in texts.items()) == orjson.dumps(fields).count(READ.encode())


@pytest.mark.parametrize(("wire", "fields"), REQUESTS)
def test_every_text_is_counted_in_a_request_with_an_image_too(wire: Wire, fields: dict[str, Any]) -> None:
    image_message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": INLINE_IMAGE}}]}
    with_image = dict(fields)
    for name in ("messages", "input"):
        if isinstance(fields.get(name), list):
            with_image[name] = [image_message, *fields[name]]
    texts = counted_texts(wire, **({"messages": [image_message]} | with_image))
    assert any(READ in text for text in texts)
    assert INLINE_IMAGE not in texts


@pytest.mark.parametrize(
    ("wire", "fields"),
    [
        (Wire.CHAT, part(type="image_url", image_url={"url": INLINE_IMAGE})),
        (Wire.CHAT, part(type="image_url", image_url={"url": INLINE_IMAGE, "detail": "high"})),
        (
            Wire.RESPONSES,
            item(role="user", content=[{"type": "input_image", "image_url": INLINE_IMAGE, "detail": "low"}]),
        ),
        (
            Wire.RESPONSES,
            item(type="function_call_output", output=[{"type": "input_image", "image_url": INLINE_IMAGE}]),
        ),
        (Wire.MESSAGES, part(type="image", source={"type": "base64", "media_type": "image/png", "data": INLINE_IMAGE})),
        (
            Wire.MESSAGES,
            part(type="image", source={"type": "url", "url": INLINE_IMAGE}, cache_control={"type": "ephemeral"}),
        ),
        (
            Wire.MESSAGES,
            part(type="tool_result", content=[{"type": "image", "source": {"type": "base64", "data": INLINE_IMAGE}}]),
        ),
    ],
)
def test_images_are_not_counted_as_text(wire: Wire, fields: dict[str, Any]) -> None:
    assert not any(INLINE_IMAGE in text for text in counted_texts(wire, **fields))


@pytest.mark.parametrize("kind", ["image_url", "input_image", "image"])
def test_a_message_with_the_type_of_an_image_is_counted(kind: str) -> None:
    assert counted_texts(Wire.CHAT, messages=[{"role": "user", "type": kind, "content": READ}])[READ] == 1
    assert counted_texts(Wire.RESPONSES, input=[{"role": "user", "type": kind, "content": READ}])[READ] == 1


def test_numbers_are_counted_as_text() -> None:
    texts = counted_texts(
        Wire.CHAT, tools=[{"function": {"parameters": {"const": 12345, "minimum": 1.5, "strict": True}}}]
    )
    assert texts["12345"] == texts["1.5"] == 1
    assert not texts.keys() & {"True", "true", "1"}


def test_parameters_and_structure_are_not_counted() -> None:
    fields = {"messages": [{"role": "user", "content": "hello"}], "temperature": 1, "user": "x", "seed": 5}
    assert counted_texts(Wire.CHAT, **fields) == {"hello": 1}


def test_the_texts_of_a_chat_request_are_counted() -> None:
    assert input_texts(CallInput(lambda: REQUEST))() == REQUEST.texts
