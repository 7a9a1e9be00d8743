"""How long other callers wait while one member sends the largest bodies that are accepted, as fast as the limit allows.

Senders in threads send each kind of body for some seconds, at the default rate limit of a user. Meanwhile this process
calls `/health/live` at regular times. The threads wait for the network without Python's global lock. The upstream has
only chat completions: its 400 shows that a body for another wire format was forwarded.
"""

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any, NamedTuple

from bench.figures import Figure
from bench.http_response import HttpResponse
from bench.load import HOST, http_request
from bench.processes import BenchError
from bench.report import format_table, show_progress
from bench.targets import Target, Testbed
from bench.workload import MODEL, Workload
from tollkeeper.settings import Settings

SECONDS = 4.0
SENDERS = 4
INTERVAL_S = 0.005
MAX_BODY_BYTES = 20 * 1024 * 1024
PROSE = "The toll is paid and the gate is open. "


class Kind(NamedTuple):
    """A kind of body. `make` returns one."""

    name: str
    path: str
    make: Callable[[], dict[str, Any]]


def _prose(size: int = MAX_BODY_BYTES - 1_000) -> str:
    return PROSE * (size // len(PROSE))


def _chat(text: str) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 16, "messages": [{"role": "user", "content": text}]}


KINDS = (
    Kind("no body", "", dict),
    Kind("20 MiB of text", "/v1/chat/completions", lambda: _chat(_prose())),
    Kind("20 MiB of text", "/v1/messages", lambda: _chat(_prose())),
    Kind("20 MiB of text", "/v1/responses", lambda: {"model": MODEL, "max_output_tokens": 16, "input": _prose()}),
    Kind("1 MB of text", "/ai/query", lambda: {"prompt": _prose(1_000_000), "max_tokens": 16}),
    Kind("900,000 escapes", "/v1/messages", lambda: _chat("\n" * 900_000)),
    Kind(
        "12,000 messages",
        "/v1/messages",
        lambda: _chat("") | {"messages": [{"role": "user", "content": _prose(1_600)} for _ in range(12_000)]},
    ),
    Kind(
        "2,000 texts", "/v1/embeddings", lambda: {"model": "text-embedding-3-small", "input": [_prose(9_000)] * 2_000}
    ),
    Kind(
        "24,000 messages",
        "/v1/messages",
        lambda: _chat("") | {"messages": [{"role": "user", "content": "toll"}] * 24_000},
    ),
    Kind(
        "390,000 strings",
        "/v1/embeddings",
        lambda: {"model": "text-embedding-3-small", "input": ["toll"] * 390_000},
    ),
    Kind(
        "390,000 strings",
        "/v1/chat/completions",
        lambda: _chat("toll") | {"metadata": ["toll"] * 390_000},
    ),
)


@dataclass(slots=True)
class _Measured:
    """A kind of body at one server: the times of the other calls in ms, by round, and the statuses of the responses."""

    kind: Kind
    times_ms: list[list[float]] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)

    def row(self) -> tuple[str, ...]:
        p50 = Figure.of(map(median, self.times_ms))
        p99 = Figure.of(quantiles(times_ms, n=100, method="inclusive")[98] for times_ms in self.times_ms)
        statuses = ", ".join(f"{count} × {status}" for status, count in sorted(self.statuses.items()))
        return self.kind.name, self.kind.path, statuses, p50.format(".1f"), p99.format(".1f")


async def measure_large_bodies(testbed: Testbed, kinds: Sequence[str], rounds: int) -> tuple[str, list[Target]]:
    """Returns the table, and the targets. Raises BenchError if another call fails."""
    rows, targets = list[tuple[str, ...]](), list[Target]()
    limit = Settings.model_fields["rate_limit_ai"].default
    for database in kinds:
        show_progress(f"starting {database}")
        target = await testbed.start_target(database, environment={"TOLLKEEPER_RATE_LIMIT_AI": limit})
        targets.append(target)
        measured = [_Measured(kind) for kind in KINDS]
        for number in range(rounds):
            show_progress(f"round {number + 1} of {rounds}")
            for one in measured:
                await _run_round(target, one, float(limit.split("/")[0]) / 60)
        rows += [(database, *one.row()) for one in measured]
    return format_table(("server", "body", "to", "responses", "p50 ms", "p99 ms"), rows, texts=4), targets


async def _run_round(target: Target, measured: _Measured, per_second: float) -> None:
    senders = _Senders(target, measured.kind, per_second)
    with senders:
        measured.times_ms.append(await _call_on_time(target.port))
    measured.statuses += senders.statuses
    target.completed[Workload.CHAT] += senders.statuses["200"]


async def _call_on_time(port: int) -> list[float]:
    """Call `/health/live` each INTERVAL_S. Returns the times in ms, each from when the call was due to its response."""
    reader, writer = await asyncio.open_connection(HOST, port)
    request, times_ms = http_request("GET", "/health/live"), list[float]()
    due = time.monotonic()
    for _ in range(int(SECONDS / INTERVAL_S)):
        due += INTERVAL_S
        await asyncio.sleep(due - time.monotonic())
        writer.write(request)
        await _read_response(reader)
        times_ms.append((time.monotonic() - due) * 1e3)
    writer.close()
    return times_ms


async def _read_response(reader: asyncio.StreamReader) -> None:
    response = HttpResponse()
    while not response.feed(await reader.read(65_536)):
        pass
    if not response.is_valid:
        raise BenchError(f"/health/live failed: {response.received[:1_000]!r}")


class _Senders:
    """Threads that send one request again and again, `per_second` together. `statuses` counts the responses."""

    def __init__(self, target: Target, kind: Kind, per_second: float) -> None:
        self._port = target.port
        self._request = http_request("POST", kind.path, token=target.users[0].token, body=kind.make())
        self._is_idle = not kind.path
        self._pause_s = SENDERS / per_second
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(SENDERS)]
        self.statuses: Counter[str] = Counter()

    def __enter__(self) -> None:
        for thread in self._threads if not self._is_idle else ():
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads if not self._is_idle else ():
            thread.join()

    def _send(self) -> None:
        due = time.monotonic()
        while not self._stopping.is_set():
            with socket.create_connection((HOST, self._port), timeout=60) as connection:
                connection.sendall(self._request)
                self.statuses[connection.recv(12).decode().removeprefix("HTTP/1.1 ")] += 1
            due = max(due + self._pause_s, time.monotonic())
            self._stopping.wait(due - time.monotonic())
