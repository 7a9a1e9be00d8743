"""What a model receives of earlier answers depends on the model and on the server."""

from typing import Any

import orjson
import pytest

from tollkeeper.chat import ChatRequest, Message, Reasoning, ToolCall, ToolResult
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.dialects.signatures import seal
from tollkeeper.providers.anthropic import AnthropicProvider
from tollkeeper.providers.base import CallInput, Model, PreparedCall, RawRequest, Wire
from tollkeeper.providers.openai import OpenAIProvider

LOCAL = "http://127.0.0.1:1/v1"
LONG_ID = "x" * 80


def turn(signature: str = "", call_id: str = "c") -> CallInput:
    request = ChatRequest(
        (
            Message("user", "hi"),
            Message("assistant", (Reasoning("hm", signature), ToolCall(call_id, "f", "{}"))),
            Message("user", (ToolResult(call_id, "1"),)),
        )
    )
    return CallInput(lambda: request)


def prepare_openai(
    call_input: CallInput, upstream: str = "any", base_url: str = LOCAL, **settings: Any
) -> PreparedCall:
    provider = OpenAIProvider(api_key="k", base_url=base_url, timeout_s=5, **settings)
    return provider.prepare(Model("m", provider, upstream=upstream), call_input)


def prepare_anthropic(call_input: CallInput, upstream: str) -> PreparedCall:
    provider = AnthropicProvider(api_key="k", base_url=LOCAL, timeout_s=5)
    return provider.prepare(Model("m", provider, upstream=upstream), call_input)


def body_of(call: PreparedCall) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(call.body_with_limit(9))
    return body


@pytest.mark.parametrize(
    ("base_url", "upstream", "field"),
    [
        (LOCAL, "any", "reasoning_content"),
        ("https://api.deepseek.com", "deepseek-chat", "reasoning_content"),
        ("https://openrouter.ai/api/v1", "openai/gpt-oss-120b", "reasoning_content"),
        ("https://api.groq.com/openai/v1", "openai/gpt-oss-120b", "reasoning"),
        ("https://api.cerebras.ai/v1", "gpt-oss-120b", "reasoning"),
        ("https://api.openai.com/v1", "gpt-5", None),
        ("https://east.openai.azure.com/openai/v1", "my-deployment", None),
        (LOCAL, "gpt-4o", None),
        (LOCAL, "o3", None),
        ("https://api.mistral.ai/v1", "any", None),
        (LOCAL, "magistral-medium", None),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "any", None),
        (LOCAL, "google/gemini-3-pro", None),
        ("https://notopenai.com.example/v1", "any", "reasoning_content"),
    ],
)
def test_reasoning_is_sent_in_the_field_that_the_chat_server_knows(
    base_url: str, upstream: str, field: str | None
) -> None:
    call = prepare_openai(turn(), upstream, base_url)
    _, message, _ = body_of(call)["messages"]
    assert {name: message[name] for name in message if "reasoning" in name} == ({field: "hm"} if field else {})
    assert ("hm" in call.texts()) is (field is not None)  # what is not sent is not counted


@pytest.mark.parametrize("forged", ["{", "[]", "[" * 9_999, '"x"', "1e400"])
def test_extra_content_that_is_no_object_is_not_sent(forged: str) -> None:
    """A caller can write any text into the id of a call."""
    call = prepare_openai(turn(call_id=f"c{seal('m', 'extra', forged)}"))
    _, message, _ = body_of(call)["messages"]
    (sent,) = message["tool_calls"]
    assert sent == {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_openai_receives_only_reasoning_that_it_encrypted_itself() -> None:
    own = seal("m", "encrypted", "s", "hm")
    for signature, sent in (("", 0), ("s", 0), (seal("other", "encrypted", "s", "hm"), 0), (own, 1)):
        call = prepare_openai(turn(signature), "gpt-5", wire=Wire.RESPONSES)
        items = [item for item in body_of(call)["input"] if item["type"] == "reasoning"]
        assert len(items) == sent
        assert all(
            item == {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "s"}
            for item in items
        )


@pytest.mark.parametrize(
    ("upstream", "requested"),
    [
        ("gpt-5", True),
        ("o4-mini", True),
        ("gpt-5-chat-latest", False),
        ("gpt-4o", False),
        ("gpt-oss-20b", False),
        ("any", False),
    ],
)
def test_encrypted_reasoning_is_requested_of_the_models_that_can_send_it(upstream: str, requested: bool) -> None:
    body = body_of(prepare_openai(turn(), upstream, wire=Wire.RESPONSES))
    assert body.get("include") == (["reasoning.encrypted_content"] if requested else None)


@pytest.mark.parametrize("upstream", ["claude-opus-5", "any", "kimi-k2"])
def test_on_anthropics_wire_only_a_models_own_thinking_is_sent(upstream: str) -> None:
    for signature, sent in (
        ("", 0),
        ("s", 0),
        (seal("other", "thinking", "s", "hm"), 0),
        (seal("m", "thinking", "", "hm"), 1),
    ):
        call = prepare_anthropic(turn(signature), upstream)
        _, message, _ = body_of(call)["messages"]
        blocks = [block for block in message["content"] if block["type"] == "thinking"]
        assert blocks == [{"type": "thinking", "thinking": "hm", "signature": ""}] * sent
        assert ("hm" in call.texts()) is bool(sent)


def raw_thinking(signature: str) -> CallInput:
    block = {"type": "thinking", "thinking": "hm", "signature": signature}
    called = {"role": "assistant", "content": [block, {"type": "text", "text": "well"}]}
    raw = RawRequest(Wire.MESSAGES, {"messages": orjson.dumps([called])}, InputSize(1))
    return CallInput(lambda: ChatRequest(()), raw)


@pytest.mark.parametrize(
    ("upstream", "signature", "sent"),
    [
        ("claude-opus-5", "own", True),
        ("claude-opus-5", "", False),
        ("kimi-k2", "", True),
        ("kimi-k2", seal("other", "thinking", "s", "hm"), False),
    ],
)
def test_thinking_that_is_passed_on_is_left_out_if_the_model_would_refuse_it(
    upstream: str, signature: str, sent: bool
) -> None:
    call = prepare_anthropic(raw_thinking(signature), upstream)
    (message,) = body_of(call)["messages"]
    assert [block["type"] for block in message["content"]] == (["thinking", "text"] if sent else ["text"])
    assert ("hm" in call.texts()) is sent


def test_the_ids_in_a_request_that_is_passed_on_are_cut_only_for_openai() -> None:
    message = {"role": "tool", "tool_call_id": LONG_ID, "content": "1"}
    raw = RawRequest(Wire.CHAT, {"messages": orjson.dumps([message])}, InputSize(1))
    for upstream, cut in (("gpt-5", True), ("any", False)):
        body = body_of(prepare_openai(CallInput(lambda: ChatRequest(()), raw), upstream))
        assert (len(body["messages"][0]["tool_call_id"]) == 64) is cut
