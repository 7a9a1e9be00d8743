"""The resident set size of a server: after its start, after the calls, after the streams, and with the tokenizer."""

from dataclasses import dataclass
from enum import StrEnum

from bench import upstream
from bench.load import request_json
from bench.targets import Target
from bench.workload import PROMPT, native_request


class Stage(StrEnum):
    """When the memory is measured, in this order."""

    STARTED = "after the start"
    CALLED = "after the calls"
    STREAMED = "after the streams"
    TOKENIZER = "tokenizer loaded"


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """The resident set size of all processes of a server, and the peak so far, in MB of 10**6 bytes."""

    rss_mb: float
    peak_mb: float

    def format(self) -> str:
        return f"{self.rss_mb:.0f} (peak {self.peak_mb:.0f})"


def memory_use(target: Target) -> MemoryUse:
    """Returns the memory that the target's server uses now, without that of its database."""
    return MemoryUse(target.rss_mb(), target.peak_rss_mb())


async def load_tokenizer(target: Target) -> MemoryUse:
    """Make one call whose response has no usage, so that Tollkeeper counts the tokens."""
    prompt = f"{PROMPT} {upstream.UNREPORTED_MARK}"
    response = await request_json(target.port, native_request(target.users[0].token, "/ai/query", prompt))
    target.counted_costs.append(response["cost"])
    return memory_use(target)
