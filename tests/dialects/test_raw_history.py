"""Requests that are passed on, without what earlier answers of other models left in them."""

from typing import Any

import orjson
import pytest

from tollkeeper.dialects.call_ids import short_id, word_id
from tollkeeper.dialects.raw_history import clean_chat_messages, clean_input, clean_messages
from tollkeeper.dialects.signatures import seal

SEALED = seal("other", "thinking", "s", "hm")
USER = {"role": "user", "content": "hi"}


def thinking(signature: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": "hm", "signature": signature}


def turn(call_id: str, *blocks: dict[str, Any]) -> list[dict[str, Any]]:
    call = {"type": "tool_use", "id": call_id, "name": "f", "input": {"id": "f.x:0"}}
    result = {"type": "tool_result", "tool_use_id": call_id, "content": "1"}
    return [USER, {"role": "assistant", "content": [*blocks, call]}, {"role": "user", "content": [result]}]


@pytest.mark.parametrize("verified", [True, False])
def test_what_the_model_itself_sent_is_passed_on_byte_for_byte(verified: bool) -> None:
    raw = b'[ {"role":"assistant", "content":[{"type":"thinking","thinking":"\\u0068m","signature":"s+/="}]} ]'
    assert clean_messages(raw, verified=verified) is raw
    raw = orjson.dumps(turn("toolu_1", thinking("s")))
    assert clean_messages(raw, verified=verified) is raw


def test_foreign_thinking_is_left_out_and_a_message_of_nothing_else_too() -> None:
    raw = orjson.dumps(
        [*turn("c", thinking(SEALED), thinking("own")), {"role": "assistant", "content": [thinking(SEALED)]}]
    )
    for verified in (True, False):
        assert orjson.loads(clean_messages(raw, verified=verified)) == turn("c", thinking("own"))


def test_unsigned_thinking_is_left_out_only_for_a_model_that_verifies_it() -> None:
    raw = orjson.dumps(turn("c", thinking("")))
    assert orjson.loads(clean_messages(raw, verified=True)) == turn("c")
    assert clean_messages(raw, verified=False) is raw


def test_ids_that_anthropic_refuses_are_mapped_in_calls_and_results() -> None:
    raw = orjson.dumps(turn("f.x:0"))
    assert orjson.loads(clean_messages(raw, verified=True)) == turn(word_id("f.x:0"))
    assert clean_messages(raw, verified=False) is raw


def test_seals_in_ids_are_removed_on_every_wire() -> None:
    assert orjson.loads(clean_messages(orjson.dumps(turn(f"c{SEALED}")), verified=False)) == turn("c")
    chat = orjson.dumps(chat_turn(f"c{SEALED}"))
    assert orjson.loads(clean_chat_messages(chat, verified=False)) == chat_turn("c")
    items = orjson.dumps([{"type": "reasoning", "encrypted_content": SEALED}, *item_turn(f"c{SEALED}")])
    assert orjson.loads(clean_input(items, verified=False)) == item_turn("c")


def chat_turn(call_id: str) -> list[dict[str, Any]]:
    call = {"id": call_id, "type": "function", "function": {"name": "f", "arguments": "{}"}}
    called = {"role": "assistant", "content": None, "tool_calls": [call]}
    return [USER, called, {"role": "tool", "tool_call_id": call_id, "content": "1"}]


def item_turn(call_id: str) -> list[dict[str, Any]]:
    call = {"type": "function_call", "call_id": call_id, "name": "f", "arguments": "{}"}
    return [call, {"type": "function_call_output", "call_id": call_id, "output": "1"}]


def test_ids_that_openai_refuses_are_cut_in_calls_and_results() -> None:
    long = "x" * 80
    chat, items = orjson.dumps(chat_turn(long)), orjson.dumps(item_turn(long))
    assert orjson.loads(clean_chat_messages(chat, verified=True)) == chat_turn(short_id(long))
    assert orjson.loads(clean_input(items, verified=True)) == item_turn(short_id(long))
    assert clean_chat_messages(chat, verified=False) is chat
    assert clean_input(items, verified=False) is items


@pytest.mark.parametrize(
    "raw", [b'"hi __tksig1"', b'["__tksig1"]', b'[{"content":[7,"__tksig1"]}]', b'[{"content":"__tksig1"}]']
)
def test_other_json_is_passed_on(raw: bytes) -> None:
    for clean in (clean_messages, clean_chat_messages, clean_input):
        assert orjson.loads(clean(raw, verified=True)) == orjson.loads(raw)
