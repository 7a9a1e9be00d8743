"""JSON line by line: taken apart however the network cuts it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollkeeper.dialects import ndjson
from tollkeeper.dialects.answer_checks import MalformedAnswer
from tollkeeper.dialects.ndjson import Splitter


def split(*blocks: bytes) -> list[bytes]:
    splitter = Splitter()
    return [*(line for block in blocks for line in splitter.feed(block)), *splitter.end()]


def test_blank_lines_are_left_out_and_the_last_needs_no_end() -> None:
    assert split(b'{"a":1}\n\n{"b":2}\r\n \n{"c":3}') == [b'{"a":1}', b'{"b":2}\r', b'{"c":3}']
    assert split(b'{"a":1}\n') == [b'{"a":1}']
    assert split(b" \n ") == split() == []


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=5))
def test_any_splitting_gives_the_same_lines(stream: bytes, cuts: list[int]) -> None:
    soup = stream.translate(bytes(b"\n\r {}1"[byte % 6] for byte in range(256)))
    places = sorted({0, len(soup), *(cut for cut in cuts if cut < len(soup))})
    assert split(*(soup[at:to] for at, to in pairwise(places))) == split(soup)


def test_a_line_that_does_not_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ndjson, "MAX_LINE_BYTES", 100)
    splitter = Splitter()
    assert splitter.feed(b"x" * 100) == []
    with pytest.raises(MalformedAnswer):
        splitter.feed(b"x")
