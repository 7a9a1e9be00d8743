"""The file of events: private, rotated by its size, shared by processes, and never with half a line in it."""

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tollkeeper.event_sinks import jsonl_file
from tollkeeper.event_sinks.jsonl_file import JsonlFile
from tollkeeper.event_sinks.sink import SinkFailed

LINE = b'{"number": 1234567}\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events" / "events.jsonl"


@pytest.fixture
def file(path: Path) -> Iterator[JsonlFile]:
    opened = JsonlFile(path, max_bytes=len(LINE) * 10, max_files=3)
    yield opened
    opened.close()


def names(path: Path) -> list[str]:
    return sorted(one.name for one in path.parent.iterdir() if one.suffix != ".lock")


def test_files_are_private(file: JsonlFile, path: Path) -> None:
    path.parent.mkdir()
    path.touch(0o644)
    for _ in range(5):
        file.write([LINE] * 5)
    assert {one.stat().st_mode & 0o777 for one in path.parent.iterdir()} == {0o600}


def test_a_full_file_is_rotated_and_the_oldest_is_deleted(file: JsonlFile, path: Path) -> None:
    for number in range(35):
        file.write([b'{"number": %7d}\n' % number])
    assert names(path) == ["events.jsonl", "events.jsonl.1", "events.jsonl.2"]
    kept = b"".join(path.with_name(name).read_bytes() for name in ("events.jsonl.2", "events.jsonl.1", "events.jsonl"))
    assert kept == b"".join(b'{"number": %7d}\n' % number for number in range(10, 35))


def test_with_one_file_it_begins_anew(path: Path) -> None:
    file = JsonlFile(path, max_bytes=len(LINE) * 2, max_files=1)
    for _ in range(5):
        file.write([LINE])
    file.close()
    assert (names(path), path.read_bytes()) == (["events.jsonl"], LINE)


def test_a_batch_larger_than_a_file_is_written_whole(file: JsonlFile, path: Path) -> None:
    file.write([LINE] * 25)
    file.write([LINE])
    assert (path.read_bytes(), path.with_name("events.jsonl.1").read_bytes()) == (LINE, LINE * 25)


def test_the_half_line_of_a_killed_process_is_ended(file: JsonlFile, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(LINE + LINE[:5])
    file.write([LINE])
    assert path.read_bytes() == LINE + LINE[:5] + b"\n" + LINE


def test_a_file_that_was_moved_away_is_made_anew(file: JsonlFile, path: Path) -> None:
    file.write([LINE])
    path.rename(path.with_name("moved"))
    file.write([LINE])
    assert path.read_bytes() == LINE


def test_a_write_that_fails_leaves_no_half_line_and_can_be_repeated(
    file: JsonlFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write([LINE])
    real, calls = os.write, iter(range(2))

    def write(descriptor: int, content: memoryview) -> int:
        if next(calls):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, content[:7])

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(SinkFailed, match="No space left"):
        file.write([LINE, LINE])
    monkeypatch.undo()
    assert path.read_bytes() == LINE
    file.write([LINE, LINE])
    assert path.read_bytes() == LINE * 3


def test_a_folder_that_cannot_be_used_is_a_failure_of_the_sink(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkFailed, match="events"):
        JsonlFile(tmp_path / "file" / "events.jsonl", max_bytes=1, max_files=1).write([LINE])


def test_a_process_that_keeps_the_lock_holds_up_the_rotation_only(
    file: JsonlFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl_file, "LOCK_WAIT_S", 0.01)
    file.write([LINE])
    with path.with_name("events.jsonl.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for _ in range(12):
            file.write([LINE])
        assert path.read_bytes() == LINE * 13
    file.write([LINE])
    assert path.read_bytes() == LINE


def test_processes_that_share_a_file_lose_no_line(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tollkeeper.event_sinks.jsonl_file import JsonlFile\n"
        "file = JsonlFile(Path(sys.argv[1]), max_bytes=2000, max_files=1000)\n"
        'for n in range(300): file.write([b\'{"p": %d, "n": %d}\\n\' % (int(sys.argv[2]), n)] * 2)\n'
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, str(path), str(number)]) for number in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    lines = [line for name in names(path) for line in path.with_name(name).read_bytes().splitlines()]
    expected = [b'{"p": %d, "n": %d}' % (p, n) for p in range(3) for n in range(300) for _ in range(2)]
    assert sorted(lines) == sorted(expected)
    assert len(names(path)) > 10
