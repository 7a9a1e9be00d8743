"""`ai.request` and `ai.response` are made of the event of a call, and are as the published schema says."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from support.event_schema import read_events, responses_in
from support.factories import set_limit, user_quota
from support.gateway import GatewayUnderTest, RecordingListener, final_chunks, open_gateway, short_pause, text_chunk
from tollkeeper import errors
from tollkeeper.chat import Price
from tollkeeper.errors import UpstreamError
from tollkeeper.gateway import attempts
from tollkeeper.gateway.ai_events import call_log, encode, request_type_of
from tollkeeper.gateway.results import CallFailed, IdempotentCall
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest, StoredResponse
from tollkeeper.quota.time_sorted_ids import time_of
from tollkeeper.telemetry import logging
from tollkeeper.telemetry.correlation import correlation_id
from tollkeeper.telemetry.logging import AccessLog


@pytest.fixture
async def gateway(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GatewayUnderTest]:
    monkeypatch.setattr(attempts, "RETRY_PAUSE_S", 0.001)
    correlation_id.set("c-1")
    async with open_gateway(sqlite_url) as opened:
        yield opened


def responses(gateway: GatewayUnderTest) -> list[dict[str, Any]]:
    return responses_in(b"".join(map(encode, gateway.seen)))


async def test_a_call_that_succeeds_has_both_events(gateway: GatewayUnderTest) -> None:
    gateway.set_model(price=Price(100, 10, 200), weight_milli=1_500)
    await gateway.complete()
    request, response = read_events(encode(gateway.seen[0]))
    charge = await gateway.charge()
    assert request["data"] == {
        "request_type": "chat",
        "surface": "query",
        "streamed": False,
        "provider": {"name": "fake"},
        "model": {"id": "m"},
        "tenant": {"id": gateway.caller.tenant_id},
        "user": {"id": gateway.caller.user_id},
        "api_key": None,
        "group": None,
        "tags": {},
    }
    assert (request["correlation_id"], response["correlation_id"]) == ("c-1", "c-1")
    assert request["time"] <= response["time"]
    data = response["data"]
    assert data | request["data"] == data
    assert (data["status"], data["error"]) == ("succeeded", None)
    assert (data["usage"]["input_tokens"], data["usage"]["output_tokens"], data["usage"]["total_tokens"]) == (
        40,
        10,
        50,
    )
    assert [attempt["charge_id"] for attempt in data["attempts"]] == [charge.id]


async def test_the_charge_in_an_event_can_be_booked_anew(gateway: GatewayUnderTest) -> None:
    """It has all that the ledger's row has of the call itself; the time of the reserve is in the id."""
    gateway.set_model(price=Price(100, 10, 200, 125), weight_milli=1_500)
    await gateway.complete()
    [data] = responses(gateway)
    charge = await gateway.charge()
    assert data["charge"] == {
        "id": charge.id,
        "basis": "provider",
        "cost_tokens": charge.cost_tokens,
        "cost_micro_usd": charge.cost_micro_usd,
        "overrun": False,
        "weight_milli": charge.weight_milli,
        "price": {"input": 100, "cached_input": 10, "output": 200, "cache_write": 125},
        "input_bound": charge.input_bound,
        "granted_output": charge.granted_output,
    }
    assert (data["tenant"]["id"], data["user"]["id"], data["surface"]) == (
        charge.tenant_id,
        charge.user_id,
        charge.surface,
    )
    assert abs(time_of(data["charge"]["id"]) / 1000 - gateway.seen[0].started_at) < 5


async def test_failures_refusals_and_replays_are_valid_events(gateway: GatewayUnderTest) -> None:
    failure = errors.ProviderFailed()
    failure.upstream = UpstreamError(503)
    gateway.set_model(fallbacks=("second",))
    gateway.set_model("second", fallbacks=())
    gateway.provider.completions = [failure, failure, *gateway.provider.completions]
    await gateway.complete()
    key = IdempotentCall(KeyedRequest("k", "f"), lambda result: StoredResponse(200, "application/json", b"{}"))
    await gateway.complete(key)
    await gateway.replay(key)
    listener = RecordingListener()
    gateway.provider.streams = [[text_chunk("a"), listener.disconnect_soon, short_pause(), *final_chunks()]]
    await gateway.stream(listener)
    gateway.provider.streams = [[text_chunk("a"), errors.ProviderInterrupted()]]
    with pytest.raises(CallFailed):
        await gateway.stream()
    with pytest.raises(errors.ModelNotFound):
        await gateway.complete(model="other")
    await set_limit(gateway.ledger, user_quota(gateway.caller), 1)
    with pytest.raises(errors.QuotaExceeded):
        await gateway.complete()
    fallback, _, replayed, left, broken, unknown, refused = responses(gateway)
    assert [(one["model"], one["status"]) for one in fallback["attempts"]] == [("m", 503), ("m", 503), ("second", 200)]
    assert [one["status"] for one in (fallback, replayed, left, broken, unknown, refused)] == [
        "succeeded",
        "replayed",
        "disconnected",
        "failed",
        "refused",
        "refused",
    ]
    assert (replayed["charge"]["basis"], replayed["charge"]["cost_tokens"]) == ("cache", 0)
    assert (left["streamed"], broken["error"]["code"], broken["charge"]["basis"]) == (True, "provider_error", "counted")
    assert (unknown["model"], unknown["charge"], unknown["error"]["code"]) == ({"id": None}, None, "not_found")
    assert refused["error"] == {"code": "quota_exceeded", "refused_by": "user-day"}


async def test_a_secret_in_the_place_of_a_model_is_not_written(gateway: GatewayUnderTest) -> None:
    gateway.set_model("sk-abcdefghij")
    await gateway.complete(model="sk-abcdefghij")
    assert b"sk-abc" not in encode(gateway.seen[0])


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """For what the log writes."""
    monkeypatch.setattr(logging, "FLUSH_INTERVAL_S", 0)
    return []


async def test_the_log_has_both_events(gateway: GatewayUnderTest, written: list[bytes]) -> None:
    await gateway.complete()
    call_log(AccessLog("info", worker=3, write=written.append))(gateway.seen[0])
    await asyncio.sleep(0.01)
    lines = [json.loads(line) for line in b"".join(written).splitlines()]
    assert [line["event"] for line in lines] == ["ai.request", "ai.response"]
    assert {(line.pop("level"), line.pop("worker")) for line in lines} == {("info", 3)}
    assert all(datetime.fromisoformat(line.pop("timestamp")).tzinfo is UTC for line in lines)
    assert [line.pop("event") for line in lines] == [line["event_type"] for line in lines]
    assert lines == list(read_events(encode(gateway.seen[0])))


async def test_the_log_as_text_has_one_line(gateway: GatewayUnderTest, written: list[bytes]) -> None:
    await gateway.complete()
    call_log(AccessLog("info", as_text=True, write=written.append), as_text=True)(gateway.seen[0])
    text = b"".join(written).decode()
    assert text.count("\n") == 1
    assert " ai.response " in text
    assert "status=succeeded" in text
    assert "cost_tokens=50" in text
    assert "{" not in text


def test_the_kind_of_a_request_is_its_endpoints() -> None:
    surfaces = ("query", "ws", "messages", "completions", "embeddings", "estimate", "messages/count_tokens")
    assert [request_type_of(surface) for surface in surfaces] == [
        "chat",
        "chat",
        "chat",
        "text_completion",
        "embeddings",
        "estimate",
        "count_tokens",
    ]
