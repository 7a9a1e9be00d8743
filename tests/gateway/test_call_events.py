"""Each call has one event at its end, with what became of it; each failure of a provider is logged."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from support.factories import set_limit, user_quota
from support.gateway import GatewayUnderTest, RecordingListener, final_chunks, open_gateway, short_pause, text_chunk
from support.plain_logs import print_plain_logs
from tollkeeper import errors
from tollkeeper.errors import UpstreamError
from tollkeeper.gateway import attempts
from tollkeeper.gateway.call_events import CallEvent
from tollkeeper.gateway.call_record import CallEvents
from tollkeeper.gateway.results import CallFailed, IdempotentCall
from tollkeeper.principal import Principal, Role
from tollkeeper.quota import journal
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest, StoredResponse
from tollkeeper.telemetry.correlation import correlation_id
from tollkeeper.telemetry.logging import configure_logging
from tollkeeper.telemetry.trace_context import join_trace

CALLER = Principal(7, 3, Role.MEMBER, 0, api_key="key_1")


@pytest.fixture
async def gateway(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GatewayUnderTest]:
    monkeypatch.setattr(attempts, "RETRY_PAUSE_S", 0.001)
    async with open_gateway(sqlite_url) as opened:
        yield opened


@pytest.fixture
def logged() -> Iterator[None]:
    configure_logging("info")
    yield
    print_plain_logs()


@pytest.mark.parametrize("streaming", [False, True])
async def test_the_event_of_a_call_has_its_charge_and_its_attempts(gateway: GatewayUnderTest, streaming: bool) -> None:
    correlation_id.set("c-1")
    result = await (gateway.stream() if streaming else gateway.complete())
    [event] = gateway.seen
    assert event.charge is not None
    assert event.charge == result.charge
    assert (event.charge.usage.input_tokens, event.charge.usage.output_tokens, event.charge.cost_tokens) == (40, 10, 50)
    assert (event.charge.basis, event.error, event.disconnected) == ("provider", None, False)
    assert (event.tenant_id, event.user_id, event.api_key) == (gateway.caller.tenant_id, gateway.caller.user_id, None)
    assert (event.correlation_id, event.surface, event.provider, event.model) == ("c-1", "query", "fake", "m")
    [attempt] = event.attempts
    assert (attempt.provider, attempt.model, attempt.error, attempt.status) == ("fake", "m", None, 200)
    assert (attempt.charge_id, event.replayed, event.streamed) == (event.charge.charge_id, False, streaming)
    assert event.terms is not None
    assert (event.terms.model, event.granted_output) == ("m", event.terms.wanted_output)


async def test_the_stages_of_a_call_follow_each_other(gateway: GatewayUnderTest) -> None:
    before = time.time()
    await gateway.complete()
    [event] = gateway.seen
    [attempt] = event.attempts
    assert event.reserve is not None
    assert event.settle is not None
    assert event.queue_seconds is not None
    assert before <= event.started_at <= time.time()
    assert 0 <= event.queue_seconds <= event.reserve.seconds
    assert 0 <= event.reserve.started_s <= event.reserve.started_s + event.reserve.seconds <= attempt.started_s
    assert attempt.started_s + attempt.seconds <= event.settle.started_s
    assert event.settle.started_s + event.settle.seconds <= event.seconds
    assert event.provider_seconds == attempt.seconds


async def test_a_call_that_waits_for_the_journal_has_its_wait_as_queue_time(
    gateway: GatewayUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "BATCH_PAUSE_S", 0.05)
    first = [asyncio.create_task(gateway.complete()) for _ in range(2)]
    await asyncio.sleep(0.02)
    await asyncio.gather(*first, gateway.complete())
    waited = max(event.queue_seconds or 0 for event in gateway.seen)
    assert 0.02 < waited < 5


async def test_the_event_has_the_failed_attempts_too_and_the_last_charge(gateway: GatewayUnderTest) -> None:
    gateway.set_model(fallbacks=("second",))
    gateway.set_model("second", fallbacks=())
    failure = errors.ProviderFailed()
    failure.upstream = UpstreamError(503)
    gateway.provider.completions = [failure, failure, *gateway.provider.completions]
    result = await gateway.complete()
    [event] = gateway.seen
    assert [(one.model, one.error, one.status) for one in event.attempts] == [
        ("m", "provider_error", 503),
        ("m", "provider_error", 503),
        ("second", None, 200),
    ]
    assert event.charge is not None
    assert (event.model, event.error, event.charge.charge_id) == ("second", None, result.charge.charge_id)


@pytest.mark.parametrize("streaming", [False, True])
async def test_the_event_of_a_failed_call_has_its_error_and_its_released_charge(
    gateway: GatewayUnderTest, streaming: bool
) -> None:
    gateway.provider.completions = [errors.ContextOverflow()]
    gateway.provider.streams = [[errors.ContextOverflow()]]
    with pytest.raises(CallFailed):
        await (gateway.stream() if streaming else gateway.complete())
    [event] = gateway.seen
    assert event.charge is not None
    assert (event.error, event.charge.basis, event.charge.cost_tokens) == ("context_length_exceeded", "none", 0)
    assert [(one.error, one.status) for one in event.attempts] == [("context_length_exceeded", None)]


async def test_a_call_that_a_quota_refuses_has_an_event_without_charge(gateway: GatewayUnderTest) -> None:
    await set_limit(gateway.ledger, user_quota(gateway.caller), 1)
    with pytest.raises(errors.QuotaExceeded):
        await gateway.complete()
    [event] = gateway.seen
    assert (event.error, event.charge, event.attempts, event.model) == ("quota_exceeded", None, (), "m")
    assert event.refused_by == "user-day"
    assert event.reserve is not None


async def test_a_call_of_an_unknown_model_has_an_event(gateway: GatewayUnderTest) -> None:
    with pytest.raises(errors.ModelNotFound):
        await gateway.complete(model="other")
    [event] = gateway.seen
    assert (event.error, event.charge, event.model, event.reserve) == ("not_found", None, "", None)


async def test_an_error_within_a_stream_has_the_status_that_the_provider_sent(gateway: GatewayUnderTest) -> None:
    failure = errors.ProviderFailed()
    failure.upstream = UpstreamError(200, "overloaded_error")
    gateway.provider.streams = [[text_chunk("a"), failure]]
    with pytest.raises(CallFailed):
        await gateway.stream()
    [attempt] = gateway.seen[0].attempts
    assert (attempt.error, attempt.status) == ("provider_error", 200)


async def test_a_replayed_response_has_an_event_without_attempts(gateway: GatewayUnderTest) -> None:
    key = IdempotentCall(KeyedRequest("k", "f"), lambda result: StoredResponse(200, "application/json", b"{}"))
    await gateway.complete(key)
    await gateway.replay(key)
    _, replayed = gateway.seen
    assert replayed.charge is not None
    assert (replayed.charge.basis, replayed.charge.cost_tokens) == ("cache", 0)
    assert (replayed.attempts, replayed.error, replayed.replayed) == ((), None, True)


async def test_a_client_that_left_is_in_the_event(gateway: GatewayUnderTest) -> None:
    listener = RecordingListener()
    gateway.provider.streams = [[text_chunk("a"), listener.disconnect_soon, short_pause(), *final_chunks()]]
    await gateway.stream(listener)
    [event] = gateway.seen
    assert (event.disconnected, event.error) == (True, None)


async def test_each_attempt_is_sent_as_a_span_of_its_own_in_the_callers_trace(gateway: GatewayUnderTest) -> None:
    failure = errors.ProviderFailed()
    gateway.provider.completions = [failure, *gateway.provider.completions]
    await gateway.complete()
    [event] = gateway.seen
    assert gateway.provider.traceparents == [event.trace.header_for(attempt.span_id) for attempt in event.attempts]
    assert len({event.trace.span_id, *(attempt.span_id for attempt in event.attempts)}) == 3


async def test_a_listener_that_fails_disturbs_neither_the_call_nor_the_other_listeners() -> None:
    seen: list[object] = []

    def fail(_event: CallEvent) -> None:
        raise ZeroDivisionError

    with CallEvents(fail, seen.append).record(CALLER, "query", join_trace(())):
        pass
    assert len(seen) == 1


def test_a_call_that_is_refused_before_it_begins_has_an_event() -> None:
    seen: list[CallEvent] = []
    CallEvents(seen.append).refuse(CALLER, "ws", errors.RateLimited(setting="TOLLKEEPER_RATE_LIMIT_AI"), join_trace(()))
    [event] = seen
    assert (event.error, event.surface, event.user_id, event.api_key) == ("rate_limited", "ws", 7, "key_1")
    assert (event.refused_by, event.reserve, event.settle) == ("TOLLKEEPER_RATE_LIMIT_AI", None, None)


@pytest.mark.usefixtures("logged")
@pytest.mark.parametrize("logs_texts", [False, True])
async def test_a_failure_is_logged_with_its_status_and_code_and_only_on_demand_with_its_text(
    gateway: GatewayUnderTest, capsys: pytest.CaptureFixture[str], logs_texts: bool
) -> None:
    gateway.events = CallEvents(logs_texts=logs_texts)
    failure = errors.ProviderAuthFailed()
    failure.upstream = UpstreamError(401, "invalid_api_key", "Incorrect key\n sk-abcdefgh. " + "My prompt. " * 100)
    gateway.provider.completions = [failure]
    with pytest.raises(CallFailed):
        await gateway.complete()
    [line] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (line["event"], line["level"], line["provider"], line["model"]) == (
        "provider.failed",
        "warning",
        "fake",
        "m",
    )
    assert (line["status"], line["code"], line["provider_code"]) == (401, "provider_auth_failed", "invalid_api_key")
    assert ("text" in line) is logs_texts
    if logs_texts:
        assert line["text"].startswith("Incorrect key ***. My prompt.")
        assert len(line["text"]) == 200
