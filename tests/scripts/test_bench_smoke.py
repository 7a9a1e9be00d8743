"""The bench measures real calls, checks every answer, and leaves nothing behind."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench import load, upstream
from bench.databases import find_stock_postgres
from bench.processes import BenchError
from support.deadlines import TEST_DEADLINE_S
from support.postgres_servers import skip_without_stock

pytestmark = pytest.mark.exhaustive

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
BENCH = (sys.executable, str(SCRIPTS / "bench"))
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright"
GOOD_STREAM = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nquit\r\nA\r\ne\r\n0\r\n\r\nri\r\n3\r\nght\r\n0\r\n\r\n"
)
STREAMED = b"quite\r\n0\r\n\r\nright"


@pytest.mark.long
def test_every_call_of_a_quick_run_reaches_the_upstream_and_is_charged_exactly(tmp_path: Path) -> None:
    written = tmp_path / "numbers.json"
    ran = run_bench("--only", "forwarder,sqlite", "--json", str(written), "--charts", str(tmp_path / "charts"))
    assert ran.returncode == 0, ran.stderr
    numbers = json.loads(written.read_text())
    calls = {"calls": 10 + 40 + 5, "chat": 10 + 40 + 5}
    streams = dict.fromkeys(("streams", "bursts", "native-streams", "native-bursts"), 4 + 8 + 2)
    assert numbers["calls"] == dict.fromkeys(("forwarder", "sqlite"), calls | streams)
    assert [row["workload"] for row in numbers["lone"] if row["kind"] == "sqlite"] == [*calls, *streams]
    assert all(row["cpu_us"]["low"] > 0 for row in numbers["load"] + numbers["lone"])
    assert "The upstream served 221 JSON responses, 56 paced streams and 56 bursts, as many as received." in ran.stdout
    assert "14 bursts × 78 + 55 calls × 74 + 55 chat × 74 + 14 native-bursts × 78" in ran.stdout
    counted = re.search(r"\+ (\d+) counted without a usage tokens = ([\d,]+), equal to the usage in its", ran.stdout)
    assert counted is not None
    assert int(counted[2].replace(",", "")) - int(counted[1]) == 2 * 55 * 74 + 4 * 14 * 78
    stages = next(row["stages"] for row in numbers["memory"] if row["kind"] == "sqlite")
    sizes = [stage["peak_mb"] for stage in stages.values()]
    assert list(stages) == ["after the start", "after the calls", "after the streams", "tokenizer loaded"]
    assert sizes == sorted(sizes)
    assert len(list((tmp_path / "charts").glob("*.svg"))) == 3


@pytest.mark.prove_only
def test_a_lone_client_calls_a_server_whose_database_is_distant(tmp_path: Path) -> None:
    if find_stock_postgres() is None:
        skip_without_stock()
    written = tmp_path / "numbers.json"
    ran = run_bench("--only", "forwarder,stock,distant", "--what", "calls", "--json", str(written))
    assert ran.returncode == 0, ran.stderr
    numbers = json.loads(written.read_text())
    assert numbers["calls"] == {"forwarder": {"calls": 55}, "stock": {"calls": 55}, "distant": {"calls": 4 + 4}}
    assert [row["part"] for row in numbers["load"]] == [None, None, "server", "database"]
    assert [row["kind"] for row in numbers["lone"]] == ["forwarder", "stock", "distant"]
    assert [row["kind"] for row in numbers["memory"]] == ["forwarder", "stock"]
    assert "Tollkeeper, PostgreSQL 3 ms away" in ran.stdout
    assert "distant: `tollkeeper ledger verify` finds no problems." in ran.stdout
    assert "Versions: PostgreSQL " in ran.stdout
    assert re.search(
        r"A round trip to the distant database takes \d+\.\d ms longer, measured: the delay of 3 ms", ran.stdout
    )


@pytest.mark.prove_only
def test_a_peer_that_no_environment_has_is_skipped_loudly(tmp_path: Path) -> None:
    ran = run_bench("--only", "forwarder", "--what", "chat", "--peers", str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    for peer, requirement in (("tensorzero", "'tensorzero'"), ("litellm", "'litellm[proxy]'")):
        sentence = f"{peer} is not measured: no environment has it."
        assert sentence in ran.stderr
        assert sentence in ran.stdout
        assert f"uv pip install --python ENV/bin/python {requirement}" in ran.stdout


def run_bench(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BENCH, "--quick", *options], capture_output=True, text=True, timeout=TEST_DEADLINE_S, check=False
    )


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
async def test_an_unexpected_answer_stops_the_bench(answer: bytes) -> None:
    with pytest.raises(BenchError):
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
async def test_an_unexpected_stream_stops_the_bench(answer: bytes) -> None:
    with pytest.raises(BenchError):
        await _drive(answer, STREAMED)


@pytest.mark.parametrize(("answer", "body"), [(GOOD, b"right"), (GOOD_STREAM, STREAMED)], ids=["whole", "streamed"])
async def test_every_expected_answer_is_counted_and_timed(answer: bytes, body: bytes) -> None:
    driven = await _drive(answer, body)
    assert len(driven.latencies_s) == 7
    assert all(0 < first <= last for first, last in zip(driven.first_byte_s, driven.latencies_s, strict=True))
    assert driven.reads >= 7


async def test_the_upstream_writes_every_delta_of_a_paced_stream_separately() -> None:
    written = await respond(messages=[{}], stream=True, stream_options={"include_usage": True})
    assert b"".join(written) == upstream.STREAM
    assert [body.count(b"data: ") for body in written] == [1] * 20 + [3]
    assert [body.count(b'"content":') for body in written] == [1] * 20 + [0]
    assert upstream.STREAM.endswith(b"data: [DONE]\n\n")


async def test_the_upstream_writes_a_burst_at_once() -> None:
    messages = [{"content": f"A prompt. {upstream.BURST_MARK}"}]
    assert await respond(messages=messages, stream=True, stream_options={"include_usage": True}) == [upstream.STREAM]


async def test_the_upstream_reports_no_usage_when_the_prompt_requests_that() -> None:
    (reported,) = await respond(messages=[{"content": "A prompt."}])
    (unreported,) = await respond(messages=[{"content": f"A prompt. {upstream.UNREPORTED_MARK}"}])
    assert json.loads(unreported) == {name: value for name, value in json.loads(reported).items() if name != "usage"}


async def respond(**request: Any) -> list[bytes]:
    """Returns the parts that the upstream writes as the response to a request."""
    written: list[bytes] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(request | {"max_tokens": 1}).encode()}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            written.append(message["body"])

    await upstream.app({"path": "/v1/chat/completions"}, receive, send)
    return written


async def _drive(answer: bytes, body: bytes) -> load.LoadResult:
    """Make seven calls over two connections to a server that always sends `answer`.

    The server closes the connection after an answer that is not one of the expected ones.
    """
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
