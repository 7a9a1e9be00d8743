"""Server-sent events: split whatever the blocks of the network are, and written."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollkeeper.dialects import sse
from tollkeeper.dialects.answer_checks import MalformedAnswer, TruncatedStream
from tollkeeper.dialects.sse import DONE, MAX_EVENT_BYTES, PING, Event, Splitter, event


def split(stream: bytes) -> list[Event]:
    return Splitter().feed(stream)


def is_unfinished(splitter: Splitter) -> bool:
    try:
        return bool(splitter.end())
    except TruncatedStream:
        return True


def test_an_event_has_its_bytes_name_and_data() -> None:
    assert split(b"data: hello\n\n") == [Event(b"data: hello\n\n", b"", b"hello")]


@pytest.mark.parametrize(
    ("raw", "name", "data"),
    [
        (b"data:hello\n\n", b"", b"hello"),
        (b"data:  hello \n\n", b"", b" hello "),
        (b"data: a: b\n\n", b"", b"a: b"),
        (b"data: a\ndata: b\n\n", b"", b"a\nb"),
        (b"data: a\ndata\n\n", b"", b"a\n"),
        (b"event: error\ndata: \n\n", b"error", b""),
        (b"\xef\xbb\xbfdata: {}\n\n", b"", b"{}"),
        (b"\xef\xbb\xbfevent: ping\r\ndata: {}\r\n\r\n", b"ping", b"{}"),
        (b"event: ping\ndata: {}\n\n", b"ping", b"{}"),
        (b"data: {}\nevent: ping\nid: 7\nretry: 5\nother: x\n\n", b"ping", b"{}"),
        (b": comment\ndata: {}\n\n", b"", b"{}"),
        (b"event: ping\r\ndata: {}\r\n\r\n", b"ping", b"{}"),
        (b"data: {}\r\r", b"", b"{}"),
        (b"data: a\rb\n\n", b"", b"a"),
    ],
)
def test_an_event_in_any_valid_form_is_read(raw: bytes, name: bytes, data: bytes) -> None:
    assert split(raw) == [Event(raw, name, data)]


@pytest.mark.parametrize(
    "stream",
    [
        *(b": comment\n\n", b"\n\n", b"event: x\n\n", b"id: 5\n\n", PING, b"\r\n\r\n"),
        *(b"data: \n\n", b"data:\n\n", b"data:  \n\n", b"event: ping\ndata: \n\n", b"data: \r\n\r\n"),
    ],
)
def test_lines_without_data_are_no_event(stream: bytes) -> None:
    splitter = Splitter()
    assert splitter.feed(stream) == []
    assert not is_unfinished(splitter)


def test_an_unfinished_event_is_reported_at_the_end() -> None:
    splitter = Splitter()
    blocks = (b"data: a\n\ndata: b\n", b"\n", b"\r\n")
    seen = [([one.data for one in splitter.feed(block)], is_unfinished(splitter)) for block in blocks]
    assert seen == [([b"a"], True), ([b"b"], False), ([], False)]


def test_an_event_above_the_maximum_size_is_malformed() -> None:
    splitter, block = Splitter(), b"data: " + b"x" * (MAX_EVENT_BYTES // 4)
    for _ in range(3):
        splitter.feed(block)
    with pytest.raises(MalformedAnswer):
        splitter.feed(block)


def test_the_maximum_size_applies_to_each_event_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    assert len(split(b"data: x\n\n" * 1000)) == 1000


line_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
words = st.text(st.sampled_from("ab:{} é☃"), max_size=6).map(str.encode)
lines = st.tuples(st.sampled_from([b"data: ", b"data:", b"event: ", b": ", b"id: ", b"da"]), words).map(b"".join)
blocks = st.lists(lines, max_size=3)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Events, comments and other fields, all with the same line ending."""
    end = draw(line_ends)
    return b"".join(end.join(block) + end + end for block in draw(st.lists(blocks, max_size=5)))


@given(streams(), st.lists(st.integers(0, 200), max_size=8))
def test_the_events_do_not_depend_on_the_blocks(stream: bytes, cuts: list[int]) -> None:
    bounds = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    splitter = Splitter()
    found = [one for at, to in pairwise(bounds) for one in splitter.feed(stream[at:to])]
    assert found == split(stream)


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=5))
def test_the_events_of_random_bytes_do_not_depend_on_the_blocks(stream: bytes, cuts: list[int]) -> None:
    random_lines = stream.translate(bytes(b"\r\n:d at"[byte % 7] for byte in range(256)))
    bounds = sorted({0, len(random_lines), *(cut for cut in cuts if cut < len(random_lines))})
    splitter, whole = Splitter(), Splitter()
    found = [one for at, to in pairwise(bounds) for one in splitter.feed(random_lines[at:to])]
    assert (found, is_unfinished(splitter)) == (whole.feed(random_lines), is_unfinished(whole))


data_words = words.filter(bytes.strip)


@given(st.lists(data_words, min_size=1, max_size=4), line_ends)
def test_the_bytes_of_each_event_are_unchanged(data: list[bytes], end: bytes) -> None:
    raw = [b"data: " + word + end + end for word in data]
    events = split(b"".join(raw))
    assert [one.raw for one in events] == raw
    assert [one.data for one in events] == data


@given(data_words, st.sampled_from([None, "error", "ping"]))
def test_a_written_event_is_read_back(data: bytes, name: str | None) -> None:
    splitter = Splitter()
    [found] = splitter.feed(PING + event(data, name) + PING)
    assert (found.data, found.name) == (data, (name or "").encode())
    assert found.raw == PING + event(data, name)
    assert not is_unfinished(splitter)


def test_done_is_an_event() -> None:
    assert [one.data for one in split(DONE)] == [b"[DONE]"]
