"""The `traceparent` of a request is read as the W3C Recommendation says; what is not valid starts a new trace."""

import re

import pytest

from tollkeeper.telemetry.trace_context import TraceContext, join_trace, new_span_id, parse_traceparent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"00-{TRACE}-{SPAN}-fe", False),
        (f"01-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-holds", True),
        (f"cc-{TRACE}-{SPAN}-01-", True),
    ],
)
def test_a_valid_header_is_honoured(value: str, sampled: bool) -> None:
    trace = join_trace([(b"host", b"x"), (b"traceparent", value.encode())])
    assert (trace.trace_id, trace.parent_id, trace.sampled) == (TRACE, SPAN, sampled)
    assert trace.span_id not in (SPAN, "0" * 16)


@pytest.mark.parametrize(
    "value",
    [
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-01 ",
        f"00-{TRACE}-{SPAN}-01\n",
        f"ff-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN.upper()}-01",
        f"00-{TRACE}-{SPAN}-0A",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01",
    ],
)
def test_a_header_that_is_not_valid_is_replaced(value: str) -> None:
    trace = join_trace([(b"traceparent", value.encode())])
    assert (trace.parent_id, trace.sampled) == (None, False)
    assert trace.trace_id != TRACE


def test_a_header_that_is_sent_twice_is_replaced() -> None:
    header = (b"traceparent", f"00-{TRACE}-{SPAN}-01".encode())
    assert join_trace([header, header]).trace_id != TRACE


def test_what_is_sent_to_a_provider_is_valid_and_names_the_span_of_the_request() -> None:
    for trace in (join_trace(()), TraceContext(TRACE, SPAN, sampled=True)):
        span_id = new_span_id()
        sent = parse_traceparent(trace.header_for(span_id).encode())
        assert sent == TraceContext(trace.trace_id, span_id, sampled=trace.sampled)


def test_each_new_trace_has_ids_of_its_own() -> None:
    traces = [join_trace(()) for _ in range(100)]
    assert len({trace.trace_id for trace in traces} | {trace.span_id for trace in traces}) == 200
    assert all(re.fullmatch("[0-9a-f]{32}", trace.trace_id) for trace in traces)
