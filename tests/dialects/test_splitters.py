"""Streams are split in the same way however they arrive, and the work for one block does not depend on those before."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.depth import examples
from tollkeeper.dialects import ndjson, sse
from tollkeeper.dialects.answer_checks import MalformedAnswer, TruncatedStream

FIELDS = [b"data: a", b"data:", b"event: x", b": ping", b"{}", b" ", b"\xef\xbb\xbf"]
PIECES = st.lists(st.sampled_from([*FIELDS, b"\n", b"\r\n", b"\r", b"\n\n"]), max_size=14)


def read_sse(blocks: list[bytes]) -> tuple[list[sse.Event], bool]:
    """The events, and whether the stream ends within one."""
    splitter = sse.Splitter()
    events = [event for block in blocks for event in splitter.feed(block)]
    try:
        return events + splitter.end(), False
    except TruncatedStream:
        return events, True


@given(st.data(), PIECES)
@settings(max_examples=examples(600), deadline=None)
def test_events_do_not_depend_on_the_blocks_in_which_they_arrive(data: st.DataObject, pieces: list[bytes]) -> None:
    sent = b"".join(pieces)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(sent) - 1)), max_size=6)))
    blocks = [sent[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(sent)], strict=True) if sent[begin:end]]
    whole, split = read_sse([sent] if sent else []), read_sse(blocks)
    if b"\r" not in sent:  # a block that ends within \r\n is cut there: the data are the same, the raw bytes differ
        assert split == whole
    assert [(event.name, event.data) for event in split[0]] == [(event.name, event.data) for event in whole[0]]


@given(st.lists(st.sampled_from([b"{}", b"\n", b" ", b'{"a":1}']), max_size=14), st.integers(1, 5))
@settings(max_examples=examples(200), deadline=None)
def test_lines_do_not_depend_on_the_blocks_in_which_they_arrive(pieces: list[bytes], size: int) -> None:
    sent = b"".join(pieces)
    whole, split = ndjson.Splitter(), ndjson.Splitter()
    expected = [*whole.feed(sent), *whole.end()]
    blocks = [sent[place : place + size] for place in range(0, len(sent), size)]
    assert [*[line for block in blocks for line in split.feed(block)], *split.end()] == expected


def test_a_long_event_in_small_blocks_is_joined_once_and_kept_in_few_parts() -> None:
    splitter = sse.Splitter()
    for _ in range(3 * sse.MAX_PARTS):
        assert splitter.feed(b"data: x\n") == []
        assert len(splitter._parts) <= sse.MAX_PARTS
    [event] = splitter.feed(b"\n")
    assert event.data.count(b"x") == 3 * sse.MAX_PARTS
    assert splitter.feed(b"data: next\n\n")[0].data == b"next"


@pytest.mark.parametrize("size", [1_000, sse.MAX_EVENT_BYTES + 1])
def test_an_event_above_the_maximum_is_malformed(size: int) -> None:
    splitter = sse.Splitter()
    for _ in range(sse.MAX_EVENT_BYTES // size):
        splitter.feed(b"x" * size)
    with pytest.raises(MalformedAnswer):
        splitter.feed(b"x" * size)


def test_blank_events_and_comments_are_left_out() -> None:
    splitter = sse.Splitter()
    assert [event.data for event in splitter.feed(b"\n\n\n\n: ping\n\n:\n\ndata: a\n\n: b\ndata: c\n\n")] == [
        b"a",
        b"c",
    ]
