"""Newline-delimited JSON, split into lines whatever the blocks of the network are."""

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


def test_blank_lines_are_left_out_and_the_last_line_needs_no_newline() -> None:
    assert split(b'{"a":1}\n\n{"b":2}\r\n \n{"c":3}') == [b'{"a":1}', b'{"b":2}\r', b'{"c":3}']
    assert split(b'{"a":1}\n') == [b'{"a":1}']
    assert split(b" \n ") == split() == []


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=5))
def test_the_lines_do_not_depend_on_the_blocks(stream: bytes, cuts: list[int]) -> None:
    lines_and_noise = stream.translate(bytes(b"\n\r {}1"[byte % 6] for byte in range(256)))
    bounds = sorted({0, len(lines_and_noise), *(cut for cut in cuts if cut < len(lines_and_noise))})
    assert split(*(lines_and_noise[start:end] for start, end in pairwise(bounds))) == split(lines_and_noise)


def test_a_line_above_the_maximum_length_is_malformed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ndjson, "MAX_LINE_BYTES", 100)
    splitter = Splitter()
    assert splitter.feed(b"x" * 100) == []
    with pytest.raises(MalformedAnswer):
        splitter.feed(b"x")
