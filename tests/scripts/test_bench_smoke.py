"""The bench measures real calls, checks every answer, and leaves nothing behind."""

import asyncio
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from support.deadlines import TEST_DEADLINE_S

pytestmark = pytest.mark.exhaustive

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
BENCH = (sys.executable, str(SCRIPTS / "bench"))
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright"
GOOD_STREAM = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nquit\r\nA\r\ne\r\n0\r\n\r\nri\r\n3\r\nght\r\n0\r\n\r\n"
)
STREAMED = b"quite\r\n0\r\n\r\nright"


def test_every_call_of_a_small_run_reaches_the_upstream_and_is_charged_exactly(tmp_path: Path) -> None:
    written = tmp_path / "numbers.json"
    amount = [
        "--rounds",
        "1",
        "--calls",
        "40",
        "--connections",
        "4",
        "--stream-connections",
        "4",
        "--latency-calls",
        "5",
        "--warm-up",
        "10",
    ]
    ran = subprocess.run(
        [*BENCH, *amount, "--streams", "8", "--latency-streams", "2", "--only", "forwarder,sqlite", "--json", written],
        capture_output=True,
        text=True,
        timeout=TEST_DEADLINE_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    numbers = json.loads(written.read_text())
    calls = {work: {kind: one["calls"] for kind, one in kinds.items()} for work, kinds in numbers.items()}
    assert calls == {
        "calls": {"forwarder": 10 + 40 + 5, "sqlite": 10 + 40 + 5 + 1},  # the one that needs the tokenizer
        "chat": {"forwarder": 10 + 40 + 5, "sqlite": 10 + 40 + 5},
        "streams": {"forwarder": 4 + 8 + 2, "sqlite": 4 + 8 + 2},
    }
    assert all(kinds["sqlite"]["cpu_us"] > 0 for kinds in numbers.values())
    assert "The upstream served 221 JSON responses and 28 streams, as many as received." in ran.stdout
    charged = "sqlite: 56 calls × 74 + 55 chat × 74 + 14 streams × 78 tokens = 9,306, equal to the usage in its quotas."
    assert charged in ran.stdout


def test_an_interrupted_bench_ends_its_processes_and_removes_its_folder(tmp_path: Path) -> None:
    running = subprocess.Popen(
        [*BENCH, "--only", "forwarder", "--rounds", "1000"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    for line in running.stderr:
        if "measuring" in line:
            break
    children = psutil.Process(running.pid).children(recursive=True)
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=TEST_DEADLINE_S)
    assert running.returncode == 130
    assert error == "bench: interrupted\n"
    assert len(children) == 2
    assert not any(child.is_running() for child in children)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "answer",
    [
        GOOD.replace(b"right", b"wrong"),
        GOOD.replace(b"200", b"500"),
        GOOD + b"more",
        GOOD[:-1],
        GOOD_STREAM,
    ],
    ids=[
        "another text",
        "another status",
        "more than was announced",
        "less than was announced",
        "the expected text within a longer body",
    ],
)
async def test_an_unexpected_answer_stops_the_bench(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    with pytest.raises(importlib.import_module("bench.processes").BenchError):
        await _drive(answer, b"right")


@pytest.mark.parametrize(
    "answer",
    [
        GOOD_STREAM.replace(b"ght", b"GHT"),
        GOOD_STREAM.replace(b"200", b"500"),
        GOOD_STREAM.replace(b"3\r\nght\r\n", b""),
        GOOD_STREAM.replace(b"4\r\n", b"5\r\n"),
        GOOD_STREAM.replace(b"4\r\n", b"x\r\n"),
        GOOD_STREAM + b"0\r\n\r\n",
        GOOD_STREAM[:-5],
    ],
    ids=["another text", "another status", "a chunk short", "a wrong size", "no size", "more than its end", "no end"],
)
async def test_an_unexpected_stream_stops_the_bench(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    with pytest.raises(importlib.import_module("bench.processes").BenchError):
        await _drive(answer, STREAMED)


@pytest.mark.parametrize(("answer", "body"), [(GOOD, b"right"), (GOOD_STREAM, STREAMED)], ids=["whole", "streamed"])
async def test_every_expected_answer_is_counted_and_timed(
    answer: bytes, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    driven = await _drive(answer, body)
    assert len(driven.latencies_s) == 7
    assert all(0 < first <= last for first, last in zip(driven.first_byte_s, driven.latencies_s, strict=True))
    assert driven.reads >= 7


async def test_the_upstream_writes_every_delta_separately(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    upstream = importlib.import_module("bench.upstream")
    request = {"messages": [{}], "max_tokens": 1, "stream": True, "stream_options": {"include_usage": True}}
    written: list[bytes] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(request).encode()}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            written.append(message["body"])

    await upstream.app({"path": "/v1/chat/completions"}, receive, send)
    assert b"".join(written) == upstream.STREAM
    assert [body.count(b"data: ") for body in written] == [1] * 20 + [3]
    assert [body.count(b'"content":') for body in written] == [1] * 20 + [0]
    assert upstream.STREAM.endswith(b"data: [DONE]\n\n")


async def _drive(answer: bytes, body: bytes) -> Any:
    """Make seven calls over two connections to a server that always sends `answer`.

    The server closes the connection after an answer that is not one of the expected ones.
    """
    load = importlib.import_module("bench.load")
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while await reader.read(1_000):
            writer.write(answer)
            if answer not in (GOOD, GOOD_STREAM):
                break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    request = load.CheckedRequest(load.http_request("GET", "/"), (b"right",), body)
    try:
        async with load.LoadDriver(port, [request], connections=2, calls=7) as driver:
            return await driver.run()
    finally:
        server.close()
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
