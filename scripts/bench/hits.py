"""What a call costs that the response cache answers, beside the same call that a provider answers.

Both kinds of calls call the same server in turns, so that other load on the machine affects both alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

from bench import upstream
from bench.figures import Figure
from bench.load import CheckedRequest, http_request
from bench.measurement import CallCounts, Round, run_calls, run_round
from bench.report import format_table, show_progress
from bench.targets import Target, Testbed
from bench.workload import Workload, native_body

_HIT_PARTS = (upstream.ANSWER.encode(), b'"cost":0,', b'"from_cache":true', b'"reserved":0,')


@dataclass(slots=True)
class _CachedTarget(Target):
    """The same server and users, called with the cache on."""

    parts: tuple[bytes, ...] = _HIT_PARTS

    def make_requests(self, workload: Workload) -> list[CheckedRequest]:
        body = native_body() | {"cache": True}
        requests = [http_request("POST", "/ai/query", token=user.token, body=body) for user in self.users]
        return [CheckedRequest(request, self.parts) for request in requests]


@dataclass(slots=True)
class _Pair:
    """A server with the rounds of its two kinds of calls."""

    made: Target
    kept: _CachedTarget
    made_rounds: list[Round] = field(default_factory=list)
    kept_rounds: list[Round] = field(default_factory=list)

    @property
    def ratio(self) -> Figure:
        """The CPU time of a hit relative to that of a call that a provider answers, round by round."""
        pairs = zip(self.kept_rounds, self.made_rounds, strict=True)
        return Figure.of(hit.cpu_us() / call.cpu_us() for hit, call in pairs)


async def measure_hits(
    testbed: Testbed, kinds: Sequence[str], rounds: int, counts: CallCounts
) -> tuple[str, list[Target]]:
    """Returns the table, and the targets. Raises BenchError if a call fails or a hit costs anything."""
    pairs = []
    for kind in kinds:
        show_progress(f"starting {kind}")
        pairs.append(await _start(testbed, kind, counts))
    for number in range(rounds):
        show_progress(f"round {number + 1} of {rounds}")
        for pair in pairs:
            for is_hit in (True, False) if number % 2 else (False, True):
                target, measured = (pair.kept, pair.kept_rounds) if is_hit else (pair.made, pair.made_rounds)
                connections = counts.connections
                measured.append(await run_round(target, Workload.CALLS, counts.loaded, connections=connections))
    rows = [
        (pair.made.kind, what, *_figures(measured), ratio)
        for pair in pairs
        for what, measured, ratio in (
            ("a provider", pair.made_rounds, "1"),
            ("the cache", pair.kept_rounds, pair.ratio.format(".3f")),
        )
    ]
    headings = ("server", "answered by", "CPU µs", "per second", "p50 ms", "× a provider's")
    return format_table(headings, rows, texts=2), [pair.made for pair in pairs]


async def _start(testbed: Testbed, kind: str, counts: CallCounts) -> _Pair:
    """Start a server whose cache has the answer for each of its users."""
    target = await testbed.start_target(kind)
    await run_calls(target, Workload.CALLS, connections=counts.connections, calls=counts.warm_up)
    kept = _CachedTarget(**{one.name: getattr(target, one.name) for one in fields(target)})
    kept.parts = (upstream.ANSWER.encode(),)
    for user in target.users:
        asked = replace(kept, users=[user])  # shares `completed`, since these calls have a cost
        await run_calls(asked, Workload.CALLS, connections=1, calls=1)
    kept.parts, kept.completed = _HIT_PARTS, target.completed.copy()
    await run_calls(kept, Workload.CALLS, connections=counts.connections, calls=counts.warm_up)
    return _Pair(target, kept)


def _figures(rounds: Sequence[Round]) -> tuple[str, ...]:
    return (
        Figure.of(one.cpu_us() for one in rounds).format(",.0f"),
        Figure.of(one.calls_per_second for one in rounds).format(",.0f"),
        Figure.of(one.p50_ms(first_byte=False) for one in rounds).format(".1f"),
    )
