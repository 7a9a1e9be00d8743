"""The metrics of several workers together, while they serve, and after they have ended."""

import fcntl
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tollkeeper.bootstrap.metrics import ServerMetrics
from tollkeeper.errors import ConfigurationError
from tollkeeper.workers import metrics as module
from tollkeeper.workers.metrics import MAX_ENDED, MetricsFolder, WorkersMetrics
from tollkeeper.workers.snapshots import GAUGES, take


class FakeWorker:
    """A worker without a process of its own: a counter, a gauge and a histogram."""

    def __init__(self, folder: MetricsFolder, number: int, pid: int) -> None:
        self.pid = pid
        registry = CollectorRegistry()
        self.calls = Counter("calls", "Calls.", ["model"], registry=registry)
        self.queue = Gauge("tollkeeper_ledger_queue", "Waiting.", registry=registry)
        self.available = Gauge("tollkeeper_ledger_available", "Available.", registry=registry)
        self.seconds = Histogram("seconds", "Seconds.", buckets=(1, 2), registry=registry)
        self.metrics = WorkersMetrics(registry, folder, number, 2, pid)
        self.metrics.start()

    def scrape(self) -> dict[str, float]:
        text = generate_latest(self.metrics).decode()
        found = re.findall(r"^([^#]\S*(?:\{.*\})?) (\S+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in found if "_created" not in name}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MetricsFolder:
    monkeypatch.setattr(module, "MAX_PATH_BYTES", 108)
    made = MetricsFolder(tmp_path)
    monkeypatch.setattr(made, "_supervisor", os.getppid())  # this process is the worker
    return made


@pytest.fixture
def pair(folder: MetricsFolder) -> Iterator[tuple[FakeWorker, FakeWorker]]:
    one, two = FakeWorker(folder, 1, 101), FakeWorker(folder, 2, 102)
    yield one, two
    one.metrics.stop()
    two.metrics.stop()


def test_every_worker_shows_the_sum_of_all(pair: tuple[FakeWorker, FakeWorker]) -> None:
    one, two = pair
    one.calls.labels("a").inc(3)
    two.calls.labels("a").inc(4)
    two.calls.labels("b").inc(5)
    for worker, queue, seconds in ((one, 2, 0.5), (two, 7, 1.5)):
        worker.queue.set(queue)
        worker.seconds.observe(seconds)
    one.available.set(1)
    for worker in pair:
        found = worker.scrape()
        assert (found['calls_total{model="a"}'], found['calls_total{model="b"}']) == (7, 5)
        assert (found["tollkeeper_ledger_queue"], found["tollkeeper_ledger_available"]) == (9, 0)
        buckets = [found[f'seconds_bucket{{le="{bound}"}}'] for bound in ("1.0", "2.0", "+Inf")]
        assert (buckets, found["seconds_count"], found["seconds_sum"]) == ([1, 2, 2], 2, 2)


def test_counters_do_not_go_back_when_a_worker_is_killed_and_gauges_forget_it(
    folder: MetricsFolder, pair: tuple[FakeWorker, FakeWorker]
) -> None:
    one, two = pair
    two.calls.labels("a").inc(4)
    two.queue.set(7)
    before = one.scrape()
    two.metrics._listener.shutdown(socket.SHUT_RDWR)  # it does not answer any more, and leaves nothing new
    assert one.scrape() == before, "until its end is known, its last snapshot counts"
    folder.end(two.pid)
    successor = FakeWorker(folder, 2, 103)
    successor.calls.labels("a").inc(1)
    found = one.scrape()
    assert (found['calls_total{model="a"}'], found["tollkeeper_ledger_queue"]) == (5, 0)
    successor.metrics.stop()


def test_a_worker_that_ends_well_leaves_what_it_counted_since_the_last_scrape(
    folder: MetricsFolder, pair: tuple[FakeWorker, FakeWorker]
) -> None:
    one, _ = pair
    for pid in range(200, 200 + 2 * MAX_ENDED):
        worker = FakeWorker(folder, 3, pid)
        worker.calls.labels("a").inc(1)
        worker.metrics.stop()
        folder.end(pid)
    assert one.scrape()['calls_total{model="a"}'] == 2 * MAX_ENDED
    assert len(list(Path(folder.socket_of(1)).parent.glob("*.ended"))) <= MAX_ENDED + 1


def test_an_end_that_is_noted_between_a_listing_and_a_reading_is_counted_once(folder: MetricsFolder) -> None:
    registry = CollectorRegistry()
    Counter("calls", "Calls.", registry=registry).inc(2)
    folder.write(300, take(registry))
    reading = folder.read(())
    listed = [path for path in Path(folder.socket_of(1)).parent.iterdir() if path.suffix == ".alive"]
    folder.end(300)
    assert len(listed) == len(list(reading)) == 1


def test_a_worker_without_a_supervisor_leaves_no_folder(
    folder: MetricsFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = FakeWorker(folder, 1, 101)
    monkeypatch.setattr(folder, "_supervisor", 0)
    worker.metrics.stop()
    assert not tmp_path.exists()


def test_what_deletes_old_temporary_files_stops_neither_workers_nor_their_metrics(
    folder: MetricsFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECK_S", 0.05)
    one, two = FakeWorker(folder, 1, 101), FakeWorker(folder, 2, 102)
    two.calls.labels("a").inc(4)
    shutil.rmtree(tmp_path)
    assert one.scrape()["tollkeeper_ledger_available"] == 0, "a scrape does not fail"
    shutil.rmtree(tmp_path)
    successor = FakeWorker(folder, 1, 103)
    assert wait_until(lambda: folder.socket_of(2).exists())
    assert successor.scrape()['calls_total{model="a"}'] == 4
    for worker in (one, two, successor):
        worker.metrics.stop()


def test_a_folder_that_is_another_users_is_not_written_to(
    folder: MetricsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(PermissionError):
        folder.write(101, b"")


def test_cleaners_that_honour_locks_leave_the_folder_alone(folder: MetricsFolder, tmp_path: Path) -> None:
    other = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_a_folder_with_a_long_path_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="TMPDIR"):
        MetricsFolder(tmp_path / ("long" * 30))


def test_the_rule_of_each_gauge_is_stated() -> None:
    """What a gauge of several workers is must be decided: their sum, or the largest, or the smallest."""
    metrics = ServerMetrics()
    anything: Any = MagicMock()
    metrics.watch_ledger(anything, anything, anything, anything)
    metrics.watch_edge(anything, anything, anything, anything)
    metrics.watch_sinks([anything])
    metrics.watch_jobs(anything, anything)
    metrics.watch_webhooks(anything, anything, anything)
    metrics.watch_workers(0)
    assert set(_names_of_gauges(metrics)) <= set(GAUGES)


def _names_of_gauges(metrics: ServerMetrics) -> Iterator[str]:
    for metric in metrics.registry.collect():
        if metric.type in ("gauge", "info"):
            yield metric.name
