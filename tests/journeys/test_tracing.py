"""A running server sends the spans of calls to an OTLP receiver, and providers receive the same trace."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from journeys.support.collector import Collector, collecting
from journeys.support.processes import ReservedPort
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S
from tollkeeper.telemetry.trace_context import parse_traceparent

PATH = "/v1/traces"
SAMPLED, NOT_SAMPLED = "0af7651916cd43dd8448eb211c80319c", "1af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
CATALOG = """
closed = true
default = "far"

[providers.near]
kind = "openai"
base_url = "{upstream}/v1"
api_key_env = "OPENAI_API_KEY"

[providers.far]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
api_key_env = "OPENAI_API_KEY"

[models.near]
provider = "near"

[models.far]
provider = "far"
fallbacks = ["near"]
"""


def values_of(attributes: list[KeyValue]) -> dict[str, object]:
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in attributes}


def spans_of(collector: Collector) -> dict[str, list[Span]]:
    """The spans that were received, by their trace."""
    found: dict[str, list[Span]] = {}
    for body in collector.bodies:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            assert values_of(list(resource.resource.attributes))["service.name"] == "tollkeeper"
            for span in resource.scope_spans[0].spans:
                found.setdefault(span.trace_id.hex(), []).append(span)
    return found


async def stream(caller: ApiUser, prompt: str, **headers: str) -> None:
    """POST /ai/stream, to the default model."""
    async with caller.http.post("/ai/stream", json={"prompt": prompt}, headers=caller.auth_headers | headers) as reply:
        assert reply.status == 200
        await reply.read()


async def test_a_call_is_a_trace_that_its_caller_begins_and_its_provider_continues(
    make_server: Callable[..., Server], sqlite_url: str, own_upstream: Upstream, tmp_path: Path
) -> None:
    """The provider cannot be reached, and the fallback answers: a stream with several attempts, and a refused call."""
    port, unused, catalog = ReservedPort(), ReservedPort(), tmp_path / "catalog.toml"
    catalog.write_text(CATALOG.format(upstream=own_upstream.anthropic_url, port=unused.number))
    server = make_server(
        sqlite_url,
        TOLLKEEPER_CATALOG=str(catalog),
        TOLLKEEPER_TRACE_URL=f"http://127.0.0.1:{port.number}{PATH}",
        TOLLKEEPER_TRACE_TOKEN="collect-me",
        TOLLKEEPER_EVENTS_NETWORKS="127.0.0.0/8",
    ).start()
    port.free()
    async with collecting(port.number, PATH) as collector, new_user(server, limit=10_000) as caller:
        prompt = scripted(caller.marker, usage={"input": 15, "output": 9})
        await stream(caller, prompt, traceparent=f"00-{NOT_SAMPLED}-{PARENT}-00")
        await stream(caller, prompt, traceparent=f"00-{SAMPLED}-{PARENT}-01")
        refused = await caller.query("too much", model="near", max_tokens=100_000)
        assert refused.code == "quota_exceeded"
        async with asyncio.timeout(TEST_DEADLINE_S):
            while len(traces := spans_of(collector)) < 2:
                await asyncio.sleep(0.05)
        (charge, *_) = [charge for charge in await caller.charges() if charge["cost"]]
    server.stop()
    unused.free()

    assert all(headers["Content-Type"] == "application/x-protobuf" for headers in collector.headers)
    assert all(headers["Authorization"] == "Bearer collect-me" for headers in collector.headers)
    assert caller.marker.encode() not in b"".join(collector.bodies)
    call, *below = traces.pop(SAMPLED)
    values = values_of(list(call.attributes))
    assert (call.name, call.kind, call.parent_span_id.hex()) == ("stream", Span.SPAN_KIND_SERVER, PARENT)
    assert (values["gen_ai.operation.name"], values["gen_ai.request.model"]) == ("chat", "near")
    assert (values["gen_ai.usage.input_tokens"], values["gen_ai.usage.output_tokens"]) == (15, 9)
    assert values["tollkeeper.charge_id"] == charge["id"]
    assert [event.name for event in call.events] == ["first output"]
    assert call.status.code == Status.STATUS_CODE_UNSET

    assert [span.name for span in below] == ["reserve", "chat far", "chat far", "chat near", "settle"]
    attempts = [span for span in below if span.kind == Span.SPAN_KIND_CLIENT]
    assert [values_of(list(span.attributes)).get("error.type") for span in attempts] == [
        "provider_unavailable",
        "provider_unavailable",
        None,
    ]
    for span in below:
        assert span.parent_span_id == call.span_id
        assert call.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= call.end_time_unix_nano
    assert len({span.span_id for span in (call, *below)}) == 6

    received = [one["headers"]["traceparent"].encode() for one in own_upstream.requests(caller.marker)]
    unsampled, sampled = (parse_traceparent(header) for header in received)
    assert unsampled is not None
    assert sampled is not None
    assert (unsampled.trace_id, unsampled.sampled) == (NOT_SAMPLED, False)
    assert (sampled.trace_id, sampled.sampled, sampled.span_id) == (SAMPLED, True, attempts[-1].span_id.hex())

    ((begun_here, *_),) = traces.values()  # the trace that the caller does not record is not among them
    assert begun_here.parent_span_id == b""
    assert values_of(list(begun_here.attributes))["error.type"] == "quota_exceeded"
    assert begun_here.status.code == Status.STATUS_CODE_UNSET
