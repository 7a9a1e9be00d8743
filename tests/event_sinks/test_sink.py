"""A sink writes off the event loop; what its bounded queue cannot take is dropped and counted."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from support.deadlines import TEST_DEADLINE_S
from tollkeeper.event_sinks import sink as sink_module
from tollkeeper.event_sinks.sink import LinesRejected, Sink, SinkFailed


class ScriptedWriter:
    """Raises each of `failures` in turn, then keeps the lines. If there is a `gate`, each write waits for it."""

    def __init__(self, *failures: Exception, gate: threading.Event | None = None) -> None:
        self.failures = list(failures)
        self.gate = gate
        self.lines: list[bytes] = []
        self.threads: set[int] = set()
        self.closed = False

    def write(self, lines: Sequence[bytes]) -> None:
        self.threads.add(threading.get_ident())
        if self.gate is not None:
            self.gate.wait(TEST_DEADLINE_S)
        if self.failures:
            raise self.failures.pop(0)
        self.lines += lines

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "FLUSH_INTERVAL_S", 0.005)
    monkeypatch.setattr(sink_module, "FIRST_PAUSE_S", 0.005)


def encode(item: int) -> bytes:
    return b"%d\n" % item


@asynccontextmanager
async def running(writer: ScriptedWriter, capacity: int = 100) -> AsyncIterator[Sink[int]]:
    sink = Sink("test", encode, lambda: writer, capacity=capacity)
    sink.start()
    try:
        async with asyncio.timeout(TEST_DEADLINE_S):
            yield sink
    finally:
        await sink.stop()


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TEST_DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def test_items_are_written_in_their_order_in_another_thread() -> None:
    writer = ScriptedWriter()
    async with running(writer, capacity=1000) as sink:
        for number in range(500):
            sink.put(number)
        await wait_until(lambda: len(writer.lines) == 500)
    assert writer.lines == [encode(number) for number in range(500)]
    assert threading.get_ident() not in writer.threads
    assert (sink.dropped, sink.queued, writer.closed) == (0, 0, True)


async def test_a_stop_writes_what_is_queued() -> None:
    writer = ScriptedWriter()
    async with running(writer) as sink:
        for number in range(100):
            sink.put(number)
    assert (len(writer.lines), sink.dropped) == (100, 0)


async def test_a_sink_that_does_not_return_drops_only_what_its_queue_cannot_take() -> None:
    gate = threading.Event()
    writer = ScriptedWriter(gate=gate)
    async with running(writer, capacity=10) as sink:
        sink.put(0)
        await wait_until(lambda: bool(writer.threads))
        started_at = time.perf_counter()
        for number in range(1, 1001):
            sink.put(number)
        assert time.perf_counter() - started_at < 1
        assert (sink.queued, sink.dropped) == (10, 990)
        gate.set()
    assert writer.lines == [encode(number) for number in range(11)]


async def test_a_batch_that_fails_is_written_again_and_nothing_is_lost() -> None:
    writer = ScriptedWriter(SinkFailed("away"), SinkFailed("away"))
    async with running(writer) as sink:
        sink.put(1)
        await wait_until(lambda: sink.is_failing)
        sink.put(2)
        await wait_until(lambda: len(writer.lines) == 2)
        await wait_until(lambda: not sink.is_failing)
    assert (writer.lines, sink.dropped) == ([encode(1), encode(2)], 0)


@pytest.mark.parametrize("failure", [LinesRejected("no"), ZeroDivisionError()])
async def test_a_batch_that_is_rejected_or_breaks_the_writer_is_dropped_and_later_ones_are_written(
    failure: Exception,
) -> None:
    writer = ScriptedWriter(failure)
    async with running(writer) as sink:
        sink.put(1)
        await wait_until(lambda: sink.dropped == 1)
        sink.put(2)
    assert (writer.lines, sink.dropped) == ([encode(2)], 1)


async def test_an_item_that_cannot_be_encoded_is_dropped_alone() -> None:
    writer = ScriptedWriter()
    sink: Sink[int] = Sink("test", lambda item: b"%d\n" % (1 // item), lambda: writer, capacity=10)
    sink.start()
    for number in (1, 0, 1):
        sink.put(number)
    await sink.stop()
    assert (len(writer.lines), sink.dropped) == (2, 1)


async def test_a_stop_gives_up_on_a_dead_sink_and_counts_what_is_left() -> None:
    writer = ScriptedWriter(*[SinkFailed("away")] * 10_000)
    sink = Sink("test", encode, lambda: writer, capacity=100)
    sink.start()
    for number in range(50):
        sink.put(number)
    started_at = time.monotonic()
    await sink.stop(max_s=0.2)
    assert time.monotonic() - started_at < 5
    assert (sink.dropped, sink.queued) == (50, 0)
