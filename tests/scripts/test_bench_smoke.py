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

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
BENCH = (sys.executable, str(SCRIPTS / "bench"))
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright"
PATIENCE_S = 90


def test_every_call_of_a_small_run_reaches_the_upstream_and_is_charged_exactly(tmp_path: Path) -> None:
    written = tmp_path / "numbers.json"
    amount = ["--rounds", "1", "--calls", "40", "--connections", "4", "--latency-calls", "5", "--warm-up", "10"]
    ran = subprocess.run(
        [*BENCH, *amount, "--only", "forwarder,sqlite", "--json", str(written)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    numbers = json.loads(written.read_text())
    assert numbers["forwarder"]["calls"] == 10 + 40 + 5
    assert numbers["sqlite"]["calls"] == 10 + 40 + 5 + 1  # the one that needs the tokenizer
    assert numbers["sqlite"]["cpu_us"] > 0
    assert "The upstream served 111 calls, as many as were answered." in ran.stdout
    assert "sqlite: 56 calls × 74 tokens = 4,144, exactly what its quotas show." in ran.stdout


def test_interrupted_it_ends_its_processes_and_removes_its_folder(tmp_path: Path) -> None:
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
    _, complaint = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 130
    assert complaint == "bench: interrupted\n"
    assert len(children) == 2
    assert not any(child.is_running() for child in children)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "answer",
    [GOOD.replace(b"right", b"wrong"), GOOD.replace(b"200", b"500"), GOOD + b"more", GOOD[:-1]],
    ids=["another text", "another status", "more than was announced", "less than was announced"],
)
async def test_an_answer_that_is_not_the_expected_one_stops_the_bench(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    with pytest.raises(importlib.import_module("bench.processes").BenchError):
        await _drive(answer)


async def test_expected_answers_are_counted_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    driven = await _drive(GOOD)
    assert len(driven.latencies) == 7
    assert all(seconds > 0 for seconds in driven.latencies)


async def _drive(answer: bytes) -> Any:
    """Seven calls over two connections to a server that always says the same, and then hangs up if it is not `GOOD`."""
    load = importlib.import_module("bench.load")
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while await reader.read(1_000):
            writer.write(answer)
            if answer != GOOD:
                break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    question = load.Question(load.http_request("GET", "/"), (b"right",))
    try:
        async with load.Driver(port, [question], connections=2, calls=7) as driver:
            return await driver.run()
    finally:
        server.close()
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
