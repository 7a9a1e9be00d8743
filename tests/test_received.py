"""What has come of a streamed answer so far."""

from tollkeeper.chat import (
    Completion,
    Finish,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from tollkeeper.received import Received


def test_nothing_is_an_empty_answer() -> None:
    received = Received()
    assert received.completion() == Completion("", "stop", None)
    assert (received.size, received.text_since(0)) == (0, "")


def test_pieces_of_every_kind_become_one_answer() -> None:
    received = Received()
    received.add((ReasoningDelta("h"), ReasoningDelta("m")))
    received.add((TextDelta("He"), TextDelta("llo")))
    received.add((ToolCallDelta(0, "c0", "f", ""), ToolCallDelta(0, None, None, '{"a":')))
    received.add((ToolCallDelta(0, None, None, "1}"),))
    received.add((Finish("tool_calls"), Usage(3, 4)))
    assert received.completion() == Completion(
        "Hello", "tool_calls", Usage(3, 4), (ToolCall("c0", "f", '{"a":1}'),), reasoning="hm"
    )


def test_calls_that_come_mixed_up_are_told_apart_by_their_index() -> None:
    received = Received()
    received.add((ToolCallDelta(1, "c1", "g", "b"), ToolCallDelta(0, "c0", "f", "a")))
    received.add((ToolCallDelta(1, None, None, "B"), ToolCallDelta(0, None, None, "A")))
    assert received.completion().tool_calls == (ToolCall("c0", "f", "aA"), ToolCall("c1", "g", "bB"))


def test_a_call_without_a_name_is_still_one() -> None:
    received = Received()
    received.add((ToolCallDelta(0, None, None, "{}"),))
    assert received.completion().tool_calls == (ToolCall("", "", "{}"),)


def test_a_refusal_is_the_text_where_there_is_no_other() -> None:
    received = Received()
    received.add((RefusalDelta("I will "), RefusalDelta("not.")))
    assert received.completion() == Completion("I will not.", "stop", None, refusal="I will not.")
    received.add((TextDelta("But"),))
    assert (received.completion().text, received.completion().refusal) == ("But", "I will not.")


def test_the_last_report_and_the_last_reason_count() -> None:
    received = Received()
    received.add((Usage(1, 1), Finish("length")))
    received.add((Usage(2, 2), Finish("stop")))
    assert (received.usage, received.finish_reason) == (Usage(2, 2), "stop")


def test_the_size_is_that_of_all_text_in_bytes() -> None:
    """A token is at least one of them, whatever the text is for."""
    received = Received()
    received.add((TextDelta("ab"), RefusalDelta("é"), ReasoningDelta("☃"), ToolCallDelta(0, "id", "é", "x")))
    received.add((ToolCallDelta(0, None, None, "☃"), Finish("stop"), Usage(9, 9)))
    assert received.size == 2 + 2 + 3 + (2 + 1) + 3 == len(received.text_since(0).encode())


def test_text_can_be_had_from_a_place_on() -> None:
    received = Received()
    received.add((TextDelta("a"), Finish("stop")))
    place = len(received.deltas)
    received.add((TextDelta("b"), ToolCallDelta(0, "id", "name", "{}"), ReasoningDelta("c"), Usage(1, 1)))
    assert (received.text_since(0), received.text_since(place)) == ("abname{}c", "bname{}c")
    assert received.text_since(len(received.deltas)) == ""
