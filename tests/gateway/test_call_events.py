"""Each call has one event at its end, with what became of it; each failure of a provider is logged."""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
import structlog

from support.factories import set_limit, user_quota
from support.gateway import GatewayUnderTest, RecordingListener, final_chunks, open_gateway, short_pause, text_chunk
from tollkeeper import errors
from tollkeeper.errors import UpstreamError
from tollkeeper.gateway import attempts
from tollkeeper.gateway.call_events import CallEvent, CallEvents, call_log
from tollkeeper.gateway.results import CallFailed, IdempotentCall
from tollkeeper.principal import Principal, Role
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest, StoredResponse
from tollkeeper.telemetry.logging import configure_logging, correlation_id

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
    structlog.reset_defaults()


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
    assert event.reserve_seconds is not None
    assert event.seconds >= event.reserve_seconds + attempt.seconds > attempt.seconds > 0


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
    assert event.reserve_seconds is not None


async def test_a_call_of_an_unknown_model_has_an_event(gateway: GatewayUnderTest) -> None:
    with pytest.raises(errors.ModelNotFound):
        await gateway.complete(model="other")
    [event] = gateway.seen
    assert (event.error, event.charge, event.model, event.reserve_seconds) == ("not_found", None, "", None)


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
    assert (replayed.attempts, replayed.error) == ((), None)


async def test_a_client_that_left_is_in_the_event(gateway: GatewayUnderTest) -> None:
    listener = RecordingListener()
    gateway.provider.streams = [[text_chunk("a"), listener.disconnect_soon, short_pause(), *final_chunks()]]
    await gateway.stream(listener)
    [event] = gateway.seen
    assert (event.disconnected, event.error) == (True, None)


async def test_a_listener_that_fails_disturbs_neither_the_call_nor_the_other_listeners() -> None:
    seen: list[object] = []

    def fail(_event: CallEvent) -> None:
        raise ZeroDivisionError

    with CallEvents(fail, seen.append).record(CALLER, "query"):
        pass
    assert len(seen) == 1


def test_a_call_that_is_refused_before_it_begins_has_an_event() -> None:
    seen: list[CallEvent] = []
    CallEvents(seen.append).refuse(CALLER, "ws", errors.RateLimited())
    [event] = seen
    assert (event.error, event.surface, event.user_id, event.api_key) == ("rate_limited", "ws", 7, "key_1")


async def test_the_log_line_of_a_call_has_its_figures(gateway: GatewayUnderTest) -> None:
    lines: list[dict[str, object]] = []
    await gateway.complete()
    call_log(lines.append)(replace(gateway.seen[0], correlation_id="c-1"))
    [line] = lines
    assert line["charge_id"] == (await gateway.charge()).id
    assert {name: line[name] for name in ("event", "basis", "input_tokens", "output_tokens", "cost_tokens")} == {
        "event": "call.finished",
        "basis": "provider",
        "input_tokens": 40,
        "output_tokens": 10,
        "cost_tokens": 50,
    }
    assert (line["surface"], line["model"], line["error"], line["attempts"]) == ("query", "m", None, 1)
    assert (line["correlation_id"], line["tenant_id"]) == ("c-1", gateway.caller.tenant_id)


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
