"""The metrics of batches."""

from itertools import product

from prometheus_client import CollectorRegistry

from tollkeeper.batches.line_counts import BatchLines
from tollkeeper.batches.models import BatchStatus
from tollkeeper.batches.runner import BatchRunner
from tollkeeper.telemetry.process_metrics import Reading, StateCollector

OPEN = (BatchStatus.VALIDATING.value, BatchStatus.IN_PROGRESS.value, BatchStatus.CANCELLING.value)


def watch_batches(registry: CollectorRegistry, runner: BatchRunner, lines: BatchLines) -> None:
    """Read how many batches are open, and how their lines have ended, at every scrape."""
    is_open = Reading(
        "tollkeeper_batches",
        "Batches of the whole installation that have not ended, some seconds ago.",
        lambda: {
            (_endpoint_of(kind), status): runner.open_batches.get((kind, status), 0)
            for kind, status in product({kind for kind, _ in lines.ended}, OPEN)
        },
        ("endpoint", "status"),
    )
    ended = Reading(
        "tollkeeper_batch_lines",
        "Lines of batches that have ended, and were collected by this process.",
        lambda: {(_endpoint_of(kind), end): count for (kind, end), count in lines.ended.items()},
        ("endpoint", "result"),
    )
    registry.register(StateCollector([is_open], [ended]))


def _endpoint_of(kind: str) -> str:
    """The endpoint of the calls of a batch, from the kind of its lines."""
    return kind.removeprefix("/v1/batches").removesuffix("/batches")
