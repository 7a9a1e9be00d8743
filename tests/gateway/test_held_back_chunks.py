"""Streams that fail before any output: nothing is charged, and the client receives only the attempt that follows."""

from collections.abc import AsyncIterator

import pytest

from support.gateway import (
    INPUT_TOKENS,
    GatewayUnderTest,
    RecordingListener,
    Step,
    assert_charged,
    failing_stream,
    final_chunks,
    open_gateway,
    text_chunk,
)
from tollkeeper import errors
from tollkeeper.chat import Delta, InconsistentUsage, InputTokens, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from tollkeeper.gateway import attempts, streaming
from tollkeeper.gateway.streaming import Deadlines
from tollkeeper.providers.base import BilledFailure, StreamChunk

NEVER_S = 3600.0
STARTS: list[tuple[Delta, ...]] = [(), (InputTokens(40),), (Usage(40, 0),), (Usage(40, 1),)]
"""First chunks without output: an event that names the response, and early reports."""


@pytest.fixture
async def gateway(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GatewayUnderTest]:
    monkeypatch.setattr(attempts, "RETRY_PAUSE_S", 0.001)
    async with open_gateway(sqlite_url, Deadlines(first_s=0.6, idle_s=0.2, total_s=NEVER_S, ping_s=NEVER_S)) as opened:
        yield opened


def start(*deltas: Delta) -> StreamChunk:
    return StreamChunk(b"<start>", deltas)


@pytest.mark.parametrize("deltas", STARTS)
async def test_a_failure_before_any_output_is_retried_and_costs_nothing(
    gateway: GatewayUnderTest, deltas: tuple[Delta, ...]
) -> None:
    listener = RecordingListener()
    gateway.provider.streams = [[start(*deltas), errors.ProviderFailed()]]
    cause, charge = await failing_stream(gateway, listener)
    assert isinstance(cause, errors.ProviderFailed)
    assert (charge.state, charge.basis, charge.cost_tokens, charge.error) == ("released", "none", 0, "provider_error")
    assert (len(gateway.provider.calls), listener.chunks) == (2, [])


async def test_output_that_was_reported_before_the_failure_is_charged_and_not_tried_again(
    gateway: GatewayUnderTest,
) -> None:
    gateway.provider.streams = [[start(Usage(40, 12)), errors.ProviderFailed()]]
    _, charge = await failing_stream(gateway, RecordingListener())
    assert (charge.state, charge.basis, charge.cost_tokens) == ("settled", "provider", 52)
    assert len(gateway.provider.calls) == 1


@pytest.mark.parametrize("deltas", STARTS)
async def test_the_client_receives_the_chunks_of_the_attempt_that_succeeds_in_order(
    gateway: GatewayUnderTest, deltas: tuple[Delta, ...]
) -> None:
    listener = RecordingListener()
    gateway.provider.streams = [
        [StreamChunk(b"<never>", deltas), errors.ProviderFailed()],
        [start(*deltas), StreamChunk(b"<ping>", ()), text_chunk("yes"), *final_chunks()],
    ]
    result = await gateway.stream(listener)
    assert (listener.raw, result.outcome.tail) == (b"<start><ping>yes<finish>", b"<usage>")
    assert_charged(await gateway.charge(), "provider", 40, 10)


async def test_a_fallback_follows_a_failure_before_any_output(gateway: GatewayUnderTest) -> None:
    gateway.set_model(fallbacks=("second",))
    gateway.set_model("second", fallbacks=())
    failing: list[Step] = [start(), errors.ProviderFailed()]
    gateway.provider.streams = [failing, failing, [start(), text_chunk("yes"), *final_chunks()]]
    listener = RecordingListener()
    result = await gateway.stream(listener)
    assert (result.model, listener.raw) == ("second", b"<start>yes<finish>")
    charges = await gateway.charges_by_model()
    assert (charges["m"].state, charges["m"].cost_tokens, charges["second"].cost_tokens) == ("released", 0, 50)


@pytest.mark.parametrize("delta", [TextDelta("x"), ReasoningDelta("x"), ToolCallDelta(0, "c", "x", "")])
async def test_a_failure_after_output_is_charged_and_not_retried(gateway: GatewayUnderTest, delta: Delta) -> None:
    listener = RecordingListener()
    gateway.provider.streams = [[start(), StreamChunk(b"x", (delta,)), errors.ProviderFailed()]]
    cause, charge = await failing_stream(gateway, listener)
    assert isinstance(cause, errors.ProviderInterrupted)
    assert_charged(charge, "counted", INPUT_TOKENS, 1)
    assert (listener.raw, len(gateway.provider.calls)) == (b"<start>x", 1)


async def test_an_answer_without_output_is_delivered_before_its_end(gateway: GatewayUnderTest) -> None:
    listener = RecordingListener()
    end = StreamChunk(b"<end>", (*final_chunks()[0].deltas, Usage(40, 0)), last=True)
    gateway.provider.streams = [[start(), end]]
    result = await gateway.stream(listener)
    assert (listener.raw, result.outcome.tail) == (b"<start>", b"<end>")
    assert_charged(await gateway.charge(), "provider", 40, 0)


async def test_the_number_of_chunks_held_back_is_limited(
    gateway: GatewayUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit the chunks are delivered, and a failure is charged."""
    monkeypatch.setattr(streaming, "MAX_HELD_BACK_CHUNKS", 3)
    listener = RecordingListener()
    gateway.provider.streams = [[*[start()] * 5, errors.ProviderFailed()]]
    cause, charge = await failing_stream(gateway, listener)
    assert isinstance(cause, errors.ProviderInterrupted)
    assert_charged(charge, "counted", INPUT_TOKENS, 0)
    assert (listener.raw, len(gateway.provider.calls)) == (b"<start>" * 5, 1)


async def test_the_bytes_held_back_are_limited(gateway: GatewayUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "MAX_HELD_BACK_BYTES", 10)
    listener = RecordingListener()
    gateway.provider.streams = [[*[start()] * 3, errors.ProviderFailed()]]
    await failing_stream(gateway, listener)
    assert listener.raw == b"<start>" * 3


@pytest.mark.parametrize(
    "chunks", [[], [start()], [start(), text_chunk("Hello")]], ids=["at once", "started", "output"]
)
async def test_a_failure_that_reports_its_usage_is_charged_and_not_retried(
    gateway: GatewayUnderTest, chunks: list[StreamChunk]
) -> None:
    gateway.provider.streams = [[*chunks, BilledFailure(Usage(45, 12))]]
    cause, charge = await failing_stream(gateway)
    assert cause.code == "provider_error"
    assert_charged(charge, "provider", 45, 12)
    assert (charge.error, len(gateway.provider.calls)) == ("provider_error", 1)


async def test_a_failure_that_reports_a_placeholder_is_counted(gateway: GatewayUnderTest) -> None:
    gateway.provider.streams = [[text_chunk("Hello"), BilledFailure(Usage(45, 0))]]
    _, charge = await failing_stream(gateway)
    assert_charged(charge, "counted", 45, 5)


async def test_a_failure_that_reports_less_than_was_reported_is_charged_by_the_earlier_report(
    gateway: GatewayUnderTest,
) -> None:
    gateway.provider.streams = [[text_chunk("Hello"), StreamChunk(b"", (Usage(40, 10),)), BilledFailure(Usage(9, 0))]]
    _, charge = await failing_stream(gateway)
    assert_charged(charge, "provider", 40, 10)


async def test_a_failure_after_a_report_of_all_output_is_charged_as_reported(gateway: GatewayUnderTest) -> None:
    gateway.provider.streams = [[text_chunk("Hello"), StreamChunk(b"", (Usage(40, 10),)), errors.ProviderFailed()]]
    _, charge = await failing_stream(gateway)
    assert_charged(charge, "provider", 40, 10)


async def test_an_early_report_is_the_least_that_is_charged(gateway: GatewayUnderTest) -> None:
    early = StreamChunk(b"", (InconsistentUsage(60, 7, 70),))
    gateway.provider.streams = [[early, text_chunk("Hello"), errors.ProviderFailed()]]
    _, charge = await failing_stream(gateway)
    assert_charged(charge, "counted", 60, 10)
