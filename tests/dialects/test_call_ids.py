"""The ids of tool calls, made valid for a provider."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollkeeper.chat import Message, ToolCall, ToolResult
from tollkeeper.dialects.call_ids import short_id, with_short_ids, with_unique_word_ids, word_id


@given(st.text())
def test_a_word_id_is_valid_to_anthropic_and_stable(call_id: str) -> None:
    mapped = word_id(call_id)
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", mapped)
    assert word_id(mapped) == mapped == word_id(call_id)


@given(st.text(max_size=200))
def test_a_short_id_has_at_most_64_characters(call_id: str) -> None:
    assert len(short_id(call_id)) <= 64
    assert short_id(call_id) == call_id or len(call_id) > 64


@pytest.mark.parametrize(
    ("one", "other"), [("f.x:0", "f_x_0"), ("f.x:0", "f:x.0"), ("a" * 65, "a" * 66), ("", "_"), ("a" * 80, "a" * 64)]
)
def test_different_ids_stay_different(one: str, other: str) -> None:
    assert word_id(one) != word_id(other)
    assert short_id(one) != short_id(other)


def test_an_id_in_which_a_gateway_carries_a_signature_is_not_cut() -> None:
    call_id = f"call_1__thought__{'x' * 200}"
    assert short_id(call_id) == call_id


def dialogue(*turns: tuple[str, ...]) -> tuple[Message, ...]:
    """Each turn calls tools with these ids, and returns their results."""
    messages: list[Message] = []
    for ids in turns:
        messages.append(Message("assistant", tuple(ToolCall(one, "f", "{}") for one in ids)))
        messages.append(Message("user", tuple(ToolResult(one, str(number)) for number, one in enumerate(ids))))
    return tuple(messages)


def ids_of(messages: tuple[Message, ...]) -> list[tuple[str, ...]]:
    ids = []
    for message in messages:
        calls = [part.id for part in message.parts if isinstance(part, ToolCall)]
        ids.append((*calls, *(part.call_id for part in message.parts if isinstance(part, ToolResult))))
    return ids


@pytest.mark.parametrize(
    "turns", [(("a", "a"), ("a",)), (("", ""),), (("f.x:0",), ("f.x:0",)), (("call_0",), ("call_0",))]
)
def test_each_call_has_an_id_of_its_own_which_its_result_has_too(turns: tuple[tuple[str, ...], ...]) -> None:
    ids = ids_of(with_unique_word_ids(dialogue(*turns)))
    assert ids[0::2] == ids[1::2]
    calls = [one for turn in ids[0::2] for one in turn]
    assert len(set(calls)) == len(calls)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", one) for one in calls)


def test_the_first_use_of_an_id_keeps_it_so_that_a_longer_dialogue_begins_equally() -> None:
    short, long = dialogue(("a", "b"), ("a",)), dialogue(("a", "b"), ("a",), ("a",))
    assert with_unique_word_ids(long)[:4] == with_unique_word_ids(short)
    assert ids_of(with_unique_word_ids(short))[0] == ("a", "b")


def test_long_ids_are_cut_equally_in_a_call_and_its_result() -> None:
    calls, results = ids_of(with_short_ids(dialogue(("x" * 80, "b"))))
    assert calls == results
    assert calls == (short_id("x" * 80), "b")


def test_valid_ids_are_not_rewritten() -> None:
    messages = (Message("user", "hi"), *dialogue(("a", "b"), ("c",)))
    assert with_unique_word_ids(messages) is messages
    assert with_short_ids(messages) is messages
