"""Usage reports with counts of unusual types, under the names of another wire format, or in another place.

And the field `error` where it is empty.
"""

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from tollkeeper.chat import Completion, Delta, Finish, InconsistentUsage, TextDelta, Usage
from tollkeeper.dialects import chat, embeddings, messages, ollama, responses
from tollkeeper.dialects.answer_checks import ProviderSentError, token_count
from tollkeeper.dialects.chat.answer_reader import read_usage as read_chat_usage
from tollkeeper.dialects.messages.answer_reader import read_usage as read_messages_usage
from tollkeeper.dialects.responses.answer_reader import read_usage as read_responses_usage
from tollkeeper.dialects.sse import Event

Read = Callable[[Any], Any]
CHAT = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
RESPONSES = {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150}
READERS = {"chat": read_chat_usage, "responses": read_responses_usage, "messages": read_messages_usage}
TEXT = {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}
OUTPUT = {"type": "response.output_text.delta", "delta": "Hi"}
EMPTY_ERRORS: tuple[Any, ...] = ("", {}, False, [], 0)

NO_FLOATS = (1.5, -1.0, 2.0**53, float("inf"), float("nan"), 1e300)
NO_TEXTS = ("", "1.0", "-1", "+1", " 1", "1_0", "\u00b2", "\u0663", "9" * 16, "9" * 5_000)
NO_COUNTS: tuple[Any, ...] = (*NO_FLOATS, *NO_TEXTS, True, False, None, [], {}, -1, 2**53)


def read_stream(reader: Any, *events: Any) -> list[Delta]:
    return [delta for event in events for delta in reader.read(Event(b"", b"", orjson.dumps(event)))]


@pytest.mark.parametrize(
    ("value", "count"),
    [
        *[(100, 100), (100.0, 100), ("100", 100), (0.0, 0), ("0", 0), (-0.0, 0), ("007", 7), (2**53 - 1, 2**53 - 1)],
        *[(value, None) for value in NO_COUNTS],
    ],
)
def test_a_count_is_a_whole_number_of_any_type(value: Any, count: int | None) -> None:
    assert token_count(value) == count
    assert type(token_count(value)) is type(count)


@pytest.mark.parametrize("as_type", [int, float, str])
@pytest.mark.parametrize("names", [CHAT, RESPONSES], ids=["chat's names", "responses' names"])
@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
def test_every_wire_reads_the_names_of_both_wires_whatever_the_type_of_the_counts(
    read: Read, names: dict[str, int], as_type: Callable[[int], Any]
) -> None:
    assert read({name: as_type(count) for name, count in names.items()}) == Usage(100, 50)


@pytest.mark.parametrize("names", [CHAT, RESPONSES], ids=["chat's names", "responses' names"])
@pytest.mark.parametrize("zeros", [{}, dict.fromkeys(CHAT, 0), dict.fromkeys(RESPONSES, 0), dict.fromkeys(CHAT)])
@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
def test_names_without_a_count_hide_no_others(read: Read, names: dict[str, int], zeros: dict[str, Any]) -> None:
    assert read(zeros | names) == Usage(100, 50)


def test_the_names_of_the_wire_itself_come_first() -> None:
    both = {"prompt_tokens": 1, "completion_tokens": 2, "input_tokens": 3, "output_tokens": 4}
    assert [read(both) for read in READERS.values()] == [Usage(1, 2), Usage(3, 4), Usage(3, 4)]


@pytest.mark.parametrize("read", [read_chat_usage, read_responses_usage])
def test_the_details_have_the_names_of_either_wire_too(read: Read) -> None:
    for counts, begins in ((CHAT, ("prompt", "completion")), (RESPONSES, ("input", "output"))):
        details = {
            f"{begins[0]}_tokens_details": {"cached_tokens": 60.0, "cache_write_tokens": "5"},
            f"{begins[1]}_tokens_details": {"reasoning_tokens": "7"},
        }
        assert read(counts | details) == Usage(100, 50, 60, 5, 7)


def test_cached_input_counts_into_the_input_of_messages_only_under_its_own_names() -> None:
    cached = {"cache_read_input_tokens": 30, "cache_creation_input_tokens": 5}
    assert read_messages_usage(RESPONSES | {"total_tokens": None} | cached) == Usage(135, 50, 30, 5)
    assert read_messages_usage(CHAT | cached) == Usage(100, 50, 30, 5)
    assert read_messages_usage(CHAT | {"prompt_tokens_details": {"cached_tokens": 30}}) == Usage(100, 50, 30)
    assert read_messages_usage({"prompt_tokens": 10, "completion_tokens": 5} | cached) == Usage(35, 5, 30, 5)


@pytest.mark.parametrize("counts", [{"prompt_tokens": "7"}, {"input_tokens": 7.0}, {"total_tokens": "7"}])
def test_embeddings_read_the_same_counts(counts: dict[str, Any]) -> None:
    assert embeddings.read_usage(counts) == Usage(7, 0)


def test_an_odd_total_leaves_the_cached_input() -> None:
    cached = {"prompt_tokens": 1000, "completion_tokens": 50, "prompt_tokens_details": {"cached_tokens": 900}}
    assert read_chat_usage(cached | {"total_tokens": 1050.0}) == Usage(1000, 50, 900)
    assert read_chat_usage(cached | {"total_tokens": "many"}) == InconsistentUsage(1000, 50, None, 900)


@pytest.mark.parametrize(
    "place",
    [
        {"usage": CHAT},
        {"x_groq": {"id": "r", "usage": CHAT}},
        {"x_groq": {"usage": CHAT}, "usage": None},
        {"x_groq": {"id": "r"}, "usage": CHAT},
        {"usage": CHAT, "x_groq": "r"},
    ],
)
@pytest.mark.parametrize("choices", [None, [], [{"index": 0, "delta": {"content": "."}, "finish_reason": "stop"}]])
def test_a_chat_stream_reports_its_usage_in_any_of_its_places(place: dict[str, Any], choices: Any) -> None:
    deltas = read_stream(chat.StreamReader(), place | {"choices": choices})
    assert [delta for delta in deltas if isinstance(delta, Usage)] == [Usage(100, 50)]


def test_a_choice_can_report_the_usage() -> None:
    chunk = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": CHAT}]}
    assert read_stream(chat.StreamReader(), chunk) == [Finish("stop"), Usage(100, 50)]


def test_groqs_field_without_a_usage_is_no_report() -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": "Hi"}}], "x_groq": {"id": "r"}}
    assert read_stream(chat.StreamReader(), chunk) == [TextDelta("Hi")]


@pytest.mark.parametrize(
    ("start", "end", "usage"),
    [
        (
            {"input_tokens": 100, "cache_read_input_tokens": 900},
            {"input_tokens": 100, "cache_read_input_tokens": 0, "output_tokens": 42},
            Usage(1000, 42, 900),
        ),
        (
            {"input_tokens": 100, "cache_read_input_tokens": 900},
            {"input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 42},
            Usage(1000, 42, 900),
        ),
        (
            {"input_tokens": 100, "cache_read_input_tokens": 900, "cache_creation_input_tokens": 50},
            {"input_tokens": 0, "output_tokens": 42},
            Usage(1050, 42, 900, 50),
        ),
        (  # all of the input at the start, and its parts at the end
            {"input_tokens": 1000},
            {"input_tokens": 100, "cache_read_input_tokens": 900, "output_tokens": 42},
            Usage(1000, 42, 900),
        ),
        ({"input_tokens": 100}, {"cache_read_input_tokens": 900, "output_tokens": 42}, Usage(1000, 42, 900)),
        ({"input_tokens": 0}, {"input_tokens": 100, "output_tokens": 42}, Usage(100, 42)),
        ({"input_tokens": 100, "output_tokens": 60}, {"output_tokens": 42}, Usage(100, 42)),
        ({"input_tokens": 100, "output_tokens": 1}, {"output_tokens": 0}, Usage(100, 0)),
        ({"prompt_tokens": 100, "completion_tokens": 1}, {"completion_tokens": 42}, Usage(100, 42)),
        ({"input_tokens": 100.0}, {"output_tokens": "42"}, Usage(100, 42)),
    ],
)
def test_the_end_of_a_message_makes_no_count_of_its_start_smaller(
    start: dict[str, Any], end: dict[str, Any], usage: Usage
) -> None:
    """The output at the start is a placeholder: it is no count."""
    deltas = read_stream(
        messages.StreamReader(),
        {"type": "message_start", "message": {"usage": start}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": end},
    )
    assert deltas[-1] == usage


def test_a_second_end_of_a_message_makes_no_count_smaller() -> None:
    reports = [{"input_tokens": 100, "output_tokens": 42}, {"input_tokens": 0, "output_tokens": 0}]
    deltas = read_stream(
        messages.StreamReader(),
        *[{"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage} for usage in reports],
    )
    assert deltas[-1] == Usage(100, 42)


WHOLE: dict[str, tuple[Callable[[bytes], Completion], dict[str, Any]]] = {
    "chat": (chat.read_answer, {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}),
    "messages": (messages.read_answer, {"type": "message", "content": [{"type": "text", "text": "Hi"}]}),
    "responses": (responses.read_answer, {"status": "completed", "output": [TEXT]}),
    "ollama": (ollama.read_answer, {"message": {"content": "Hi"}, "done": True}),
}
STREAMED: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "chat": (chat.StreamReader, {"choices": [{"delta": {"content": "Hi"}}]}),
    "messages": (
        messages.StreamReader,
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
    ),
    "responses": (responses.StreamReader, OUTPUT),
}


@pytest.mark.parametrize("error", EMPTY_ERRORS, ids=repr)
@pytest.mark.parametrize(("read", "answer"), WHOLE.values(), ids=WHOLE.keys())
def test_an_empty_error_beside_an_answer_is_none(
    read: Callable[[bytes], Completion], answer: dict[str, Any], error: Any
) -> None:
    assert read(orjson.dumps(answer | {"error": error})).text == "Hi"
    with pytest.raises(ProviderSentError):
        read(orjson.dumps({"error": error, "usage": CHAT}))


@pytest.mark.parametrize("error", EMPTY_ERRORS, ids=repr)
@pytest.mark.parametrize(("make_reader", "event"), STREAMED.values(), ids=STREAMED.keys())
def test_an_empty_error_beside_a_piece_of_an_answer_is_none(
    make_reader: Callable[[], Any], event: dict[str, Any], error: Any
) -> None:
    assert read_stream(make_reader(), event | {"error": error}) == [TextDelta("Hi")]
    with pytest.raises(ProviderSentError):
        read_stream(make_reader(), {"error": error})
    with pytest.raises(ProviderSentError):
        read_stream(make_reader(), event | {"error": {"message": "x"}})


@pytest.mark.parametrize("error", EMPTY_ERRORS, ids=repr)
def test_an_empty_error_in_a_choice_in_a_line_or_beside_vectors_is_none(error: Any) -> None:
    choice = {"message": {"content": "Hi"}, "delta": {"content": "Hi"}, "error": error}
    assert chat.read_answer(orjson.dumps({"choices": [choice]})).text == "Hi"
    assert read_stream(chat.StreamReader(), {"choices": [choice]}) == [TextDelta("Hi")]
    line = orjson.dumps({"message": {"content": "Hi"}, "done": False, "error": error})
    assert ollama.StreamReader().read(line) == [TextDelta("Hi")]
    vectors = {"data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 7}, "error": error}
    assert embeddings.read_answer(orjson.dumps(vectors)).usage == Usage(7, 0)
