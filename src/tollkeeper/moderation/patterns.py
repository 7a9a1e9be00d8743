"""Regular expressions of tenants: RE2's, whose time is linear in the text, and whose memory is bounded."""

from collections.abc import Iterator
from typing import Any

import re2

from tollkeeper.worker_thread import pause

MAX_BYTES = 1024 * 1024
"""The memory of one compiled pattern, its automaton included. To compile one of this size takes about 40 ms."""
SLICE_CHARS, SLICE_OVERLAP = 64 * 1024, 4 * 1024
"""A long text is searched in slices: so that other threads run meanwhile, and so that a pattern which reads to the end
of the text for each match takes linear time, too. A match is at most as long as the overlap.
"""
MAX_CANDIDATES = 50_000
"""Matches of one pattern in one text. Verifying them takes less than a second."""
PAUSE_EVERY = 256
"""Matches that are verified before a thread lets the event loop run."""

Span = tuple[int, int]


class TooDense(Exception):
    """A text has more matches than are verified."""


class BadPattern(ValueError):
    """A pattern that RE2 cannot compile, or not in MAX_BYTES."""


def compile_pattern(pattern: str) -> Any:
    """The compiled pattern. Raises BadPattern, whose text says what is wrong."""
    options = re2.Options()
    options.log_errors = False  # else RE2 writes the tenant's pattern to the process's error output
    options.max_mem = MAX_BYTES
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0] if error.args else b""
        raise BadPattern(reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)) from None


def find_spans(compiled: Any, text: str) -> Iterator[Span]:
    """The matches of a pattern, but for empty ones, slice by slice. Raises TooDense."""
    count, position = 0, 0
    for begin in range(0, len(text), SLICE_CHARS):
        pause()
        first = max(begin - 1, 0)  # the pattern sees the character before, for a word boundary
        piece = text[first : begin + SLICE_CHARS + SLICE_OVERLAP]
        for match in compiled.finditer(piece, max(position, begin) - first):
            start, end = match.start() + first, match.end() + first
            if start >= begin + SLICE_CHARS:
                break
            if start == end:
                continue
            count += 1
            if count > MAX_CANDIDATES:
                raise TooDense
            if not count % PAUSE_EVERY:
                pause()
            position = end
            yield start, end
