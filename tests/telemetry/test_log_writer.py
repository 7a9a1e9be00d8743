"""A log that nobody reads holds up no caller: its lines wait in a bounded queue, and then are dropped and counted."""

import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from unittest.mock import MagicMock

import pytest

from support.deadlines import TEST_DEADLINE_S
from tollkeeper.telemetry import log_writer
from tollkeeper.telemetry.log_writer import LogWriter, write_at_once

LINE = b"x" * 999 + b"\n"
PIPE_LINES = 65


@contextmanager
def piped_output() -> Iterator[int]:
    """Standard output is a pipe for the block. Yields its other end. (In a fixture, pytest undoes that.)"""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as output, redirect_stdout(output):
        yield reading
    os.close(reading)


def read_lines(reader: int, count: int) -> list[bytes]:
    found = b""
    while found.count(b"\n") < count:
        found += os.read(reader, 65536)
    return found.splitlines(keepends=True)


def test_a_stalled_reader_holds_up_nobody_and_what_is_dropped_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    with piped_output() as reader:
        log = MagicMock()
        monkeypatch.setattr(log_writer, "log", log)
        writer = LogWriter(max_bytes=100 * len(LINE))
        writer.start()
        started_at = time.monotonic()
        for _ in range(1_000):
            writer.write(LINE)
        assert time.monotonic() - started_at < 1
        assert 800 <= writer.dropped <= 900
        kept = 1_000 - writer.dropped
        assert read_lines(reader, kept) == [LINE] * kept
        writer.write(b"again\n")
        assert read_lines(reader, 1) == [b"again\n"]
        dropped = writer.dropped
        writer.stop()
        assert writer.dropped == dropped
        log.error.assert_called_once_with("log.dropped", count=dropped)


def test_a_stop_does_not_wait_for_a_stalled_reader() -> None:
    with piped_output() as reader:
        writer = LogWriter()
        writer.start()
        for _ in range(2 * PIPE_LINES):
            writer.write(LINE)
        started_at = time.monotonic()
        writer.stop(0.1)
        assert time.monotonic() - started_at < TEST_DEADLINE_S / 2
        assert PIPE_LINES / 2 < writer.dropped < 2 * PIPE_LINES
        read_lines(reader, 2 * PIPE_LINES - writer.dropped)


def test_without_its_thread_a_line_is_written_at_once_or_dropped_after_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    with piped_output() as reader:
        monkeypatch.setattr(log_writer, "MAX_WAIT_S", 0.05)
        LogWriter().write(b"before\n")
        assert read_lines(reader, 1) == [b"before\n"]
        for _ in range(2 * PIPE_LINES):
            write_at_once(LINE)
        assert PIPE_LINES / 2 < len(read_lines(reader, PIPE_LINES - 5)) < 2 * PIPE_LINES


def test_a_closed_output_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    for output in (None, closed):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", output)
            writer = LogWriter()
            writer.start()
            writer.write(LINE)
            writer.stop()
