"""The accumulator of a streamed answer."""

import pytest

from tollkeeper.chat import (
    Completion,
    Delta,
    Finish,
    InconsistentUsage,
    InputTokens,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
    UsageReport,
)
from tollkeeper.gateway.accumulator import StreamAccumulator


def test_no_deltas_are_an_empty_answer() -> None:
    received = StreamAccumulator()
    assert received.completion() == Completion("", "stop", None)
    assert (received.text_bytes, received.text_since(0)) == (0, "")


def test_deltas_of_every_kind_become_one_answer() -> None:
    received = StreamAccumulator()
    received.add((ReasoningDelta("h"), ReasoningDelta("m")))
    received.add((TextDelta("He"), TextDelta("llo")))
    received.add((ToolCallDelta(0, "c0", "f", ""), ToolCallDelta(0, None, None, '{"a":')))
    received.add((ToolCallDelta(0, None, None, "1}"),))
    received.add((Finish("tool_calls"), Usage(3, 4)))
    assert received.completion() == Completion(
        "Hello", "tool_calls", Usage(3, 4), (ToolCall("c0", "f", '{"a":1}'),), reasoning="hm"
    )


def test_interleaved_tool_calls_are_separated_by_their_index() -> None:
    received = StreamAccumulator()
    received.add((ToolCallDelta(1, "c1", "g", "b"), ToolCallDelta(0, "c0", "f", "a")))
    received.add((ToolCallDelta(1, None, None, "B"), ToolCallDelta(0, None, None, "A")))
    assert received.completion().tool_calls == (ToolCall("c0", "f", "aA"), ToolCall("c1", "g", "bB"))


def test_a_call_of_a_custom_tool_has_a_text_as_its_input() -> None:
    received = StreamAccumulator()
    received.add((ToolCallDelta(0, "c0", "sql", "", custom=True), ToolCallDelta(1, "c1", "f", "{}")))
    received.add((ToolCallDelta(0, None, None, "select", custom=True),))
    assert received.completion().tool_calls == (ToolCall("c0", "sql", "select", custom=True), ToolCall("c1", "f", "{}"))
    assert received.text_bytes == len("sqlselectf{}")


def test_a_tool_call_without_a_name_is_still_a_tool_call() -> None:
    received = StreamAccumulator()
    received.add((ToolCallDelta(0, None, None, "{}"),))
    assert received.completion().tool_calls == (ToolCall("", "", "{}"),)


class Uncopied(str):
    """Text that must not be joined delta by delta, because each step would copy all of it."""

    __slots__ = ()

    def __add__(self, other: str) -> str:
        raise AssertionError

    def __radd__(self, other: str) -> str:
        raise AssertionError


def test_a_long_tool_call_is_joined_once_and_not_per_delta() -> None:
    received = StreamAccumulator()
    received.add((ToolCallDelta(0, "c0", "f", Uncopied("[")),))
    for _ in range(100_000):
        received.add((ToolCallDelta(0, None, None, Uncopied("1,")),))
    [call] = received.completion().tool_calls
    assert call == ToolCall("c0", "f", "[" + "1," * 100_000)


def test_a_refusal_is_the_text_where_there_is_no_other() -> None:
    received = StreamAccumulator()
    received.add((RefusalDelta("I will "), RefusalDelta("not.")))
    assert received.completion() == Completion("I will not.", "stop", None, refusal="I will not.")
    received.add((TextDelta("But"),))
    assert (received.completion().text, received.completion().refusal) == ("But", "I will not.")


def test_the_largest_report_and_the_last_finish_reason_count() -> None:
    received = StreamAccumulator()
    received.add((Usage(1, 1), Finish("length")))
    received.add((Usage(2, 2), Finish("stop")))
    assert (received.usage, received.finish_reason) == (Usage(2, 2), "stop")


def test_a_report_covers_the_output_if_none_follows_it() -> None:
    def reported(*deltas: Delta) -> UsageReport | None:
        received = StreamAccumulator()
        for delta in deltas:
            received.add((delta,))
        return received.usage if received.is_reported else None

    output, end = TextDelta("Hello"), Finish("stop")
    assert reported(Usage(1, 0)) == Usage(1, 0)
    assert reported(Usage(1, 0), output, end) is None
    assert reported(output, Usage(1, 5)) == Usage(1, 5)
    assert reported(output, InconsistentUsage(1, None)) == InconsistentUsage(1, None)
    assert reported(Usage(1, 0), output, end, Usage(1, 5)) == Usage(1, 5)
    assert reported(Usage(1, 0), output, Usage(1, 5), end) == Usage(1, 5)
    assert reported(output, end, Usage(1, 5), output) is None, "of another choice"


@pytest.mark.parametrize(
    ("earlier", "later", "merged"),
    [
        (Usage(3000, 70), Usage(0, 0), Usage(3000, 70)),
        (Usage(3000, 0), InconsistentUsage(None, 50), Usage(3000, 50)),
        (InconsistentUsage(3000, None), InconsistentUsage(None, 50), Usage(3000, 50)),
        (Usage(3000, 1), Usage(3000, 70), Usage(3000, 70)),
        (Usage(3000, 70, 900, 40, 30), Usage(3000, 71), Usage(3000, 71, 900, 40, 30)),
        (Usage(3000, 70), Usage(3000, 70, 900, 40, 30), Usage(3000, 70, 900, 40, 30)),
        (Usage(1000, 70, 900), Usage(1000, 70, 0, 900), Usage(1000, 70, 0, 900)),
        (InconsistentUsage(20, 424, 1016), InconsistentUsage(20, 0, 20), InconsistentUsage(20, 424, 1016)),
        (InconsistentUsage(20, 100, 500), Usage(20, 200), InconsistentUsage(20, 200, 500)),
        (InconsistentUsage(20, 100), InconsistentUsage(20, 101), InconsistentUsage(20, 101)),
        (InconsistentUsage(None, None, 90), InconsistentUsage(None, None, 80), InconsistentUsage(None, None, 90)),
        (Usage(10**9, 1), Usage(100, 50), Usage(100, 50)),
        (Usage(100, 50), Usage(10**9, 10**9), Usage(100, 50)),
        (Usage(10**9, 1), InconsistentUsage(None, 5), Usage(10**9, 5)),
    ],
)
def test_a_later_report_makes_no_count_smaller(earlier: UsageReport, later: UsageReport, merged: UsageReport) -> None:
    received = StreamAccumulator(max_input=5_000, max_output=5_000)
    received.add((TextDelta("Hello"), earlier))
    received.add((Finish("stop"), later))
    assert (received.usage, received.is_reported) == (merged, True)


@pytest.mark.parametrize(
    ("later", "covers"),
    [
        (Usage(0, 0), False),
        (InconsistentUsage(9, None), False),
        (Usage(9, 2), False),
        (Usage(9, 10**9), False),
        (Usage(9, 3), True),
        (Usage(0, 4), True),
    ],
)
def test_a_smaller_report_covers_no_output_after_the_larger_one(later: UsageReport, covers: bool) -> None:
    """The output of the report in mid-stream is then no output of the whole answer."""
    received = StreamAccumulator(max_input=5_000, max_output=5_000)
    received.add((TextDelta("Hello"), Usage(9, 3)))
    received.add((TextDelta(" and goodbye"), Finish("stop"), later))
    assert received.is_reported is covers


@pytest.mark.parametrize(
    "output", [TextDelta("x"), RefusalDelta("x"), ReasoningDelta("x"), ToolCallDelta(0, "c0", "f", "{}")]
)
def test_a_report_before_any_output_does_not_cover_the_answer(output: Delta) -> None:
    received = StreamAccumulator()
    received.add((Finish("stop"), Usage(1, 1), output))
    assert not received.is_reported


def test_the_size_is_that_of_all_text_in_bytes() -> None:
    """A token is at least one byte, in any kind of text."""
    received = StreamAccumulator()
    received.add((TextDelta("ab"), RefusalDelta("é"), ReasoningDelta("☃"), ToolCallDelta(0, "id", "é", "x")))
    received.add((ToolCallDelta(0, None, None, "☃"), Finish("stop"), Usage(9, 9)))
    assert received.text_bytes == 2 + 2 + 3 + (2 + 1) + 3 == len(received.text_since(0).encode())


def test_text_since_returns_the_text_after_a_position() -> None:
    received = StreamAccumulator()
    received.add((TextDelta("a"), Finish("stop")))
    position = len(received.deltas)
    received.add((TextDelta("b"), ToolCallDelta(0, "id", "name", "{}"), ReasoningDelta("c"), Usage(1, 1)))
    assert (received.text_since(0), received.text_since(position)) == ("abname{}c", "bname{}c")
    assert received.text_since(len(received.deltas)) == ""


def test_a_report_does_not_cover_an_answer_that_is_cut() -> None:
    received = StreamAccumulator()
    received.add((TextDelta("Hello"), Usage(1, 1)))
    received.cut()
    assert (received.finish_reason, received.is_reported, received.usage) == ("length", False, Usage(1, 1))


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        (TextDelta("x"), True),
        (ToolCallDelta(0, "c", "", ""), True),
        (Usage(1, 1), False),
        (InputTokens(9), False),
        (Finish("stop"), False),
    ],
)
def test_only_a_part_of_the_answer_is_output(delta: Delta, expected: bool) -> None:
    received = StreamAccumulator()
    received.add((delta,))
    assert received.has_output is expected
