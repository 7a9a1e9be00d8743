"""W3C Trace Context (Recommendation of 23 November 2021): joins a call to its caller's trace.

Each call has a span of its own, and each request to a provider another one below it. `tracestate` is not passed on: it
is for the systems of the caller, and a provider is another company's.
"""

import random
import re
from collections.abc import Iterable
from contextvars import ContextVar
from typing import NamedTuple

HEADER = "traceparent"

_VERSION_0, _INVALID_VERSION = b"00", b"ff"
_SAMPLED = 1
_FORM = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x20-\x7e]*)?")

outgoing_traceparent: ContextVar[str] = ContextVar("outgoing_traceparent", default="")
"""The header of the request that the current task sends to a provider; empty outside of such requests."""


class TraceContext(NamedTuple):
    """The span of one call. `parent_id` is the caller's span, None for a trace that begins here. Ids are in hex."""

    trace_id: str
    span_id: str
    parent_id: str | None = None
    sampled: bool = False

    def header_for(self, span_id: str) -> str:
        """The `traceparent` of a request whose span is a child of this one."""
        return f"00-{self.trace_id}-{span_id}-0{int(self.sampled)}"


def join_trace(headers: Iterable[tuple[bytes, bytes]]) -> TraceContext:
    """A new span in the trace that these headers name; in a new trace if they name none, or not in the valid form."""
    received = [value for name, value in headers if name == b"traceparent"]
    if len(received) == 1 and (parent := parse_traceparent(received[0])) is not None:
        return TraceContext(parent.trace_id, new_span_id(), parent.span_id, parent.sampled)
    return TraceContext(f"{random.getrandbits(128) or 1:032x}", new_span_id())


def parse_traceparent(value: bytes) -> TraceContext | None:
    """The span that a `traceparent` names; None if its form is not valid.

    A later version may have further fields at the end, version 00 has none. Only the flag `sampled` is defined.
    """
    form = _FORM.fullmatch(value)
    if form is None or form[1] == _INVALID_VERSION or (form[1] == _VERSION_0 and form[5] is not None):
        return None
    if not form[2].strip(b"0") or not form[3].strip(b"0"):
        return None
    return TraceContext(form[2].decode(), form[3].decode(), sampled=bool(int(form[4], 16) & _SAMPLED))


def is_sampled(trace_id: str, ratio: float) -> bool:
    """Whether a trace that begins here is among the share that is recorded. Every process decides alike.

    The last 7 bytes of an id are random (Trace Context Level 2).
    """
    return int(trace_id[-14:], 16) < ratio * (1 << 56)


def new_span_id() -> str:
    """An id for a span: 16 hexadecimal digits, not all of them 0."""
    return f"{random.getrandbits(64) or 1:016x}"
