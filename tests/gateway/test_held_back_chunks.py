"""A stream that fails before any output: nothing is charged, another attempt follows, and the client sees only that."""

from collections.abc import AsyncIterator

import pytest

from house import INPUT_TOKENS, Ear, House, assert_charged, ending, fail, open_house, text
from tollkeeper import errors
from tollkeeper.chat import Delta, InconsistentUsage, InputTokens, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from tollkeeper.gateway import attempts, streaming
from tollkeeper.gateway.streaming import Deadlines
from tollkeeper.providers.base import BilledFailure, StreamChunk

NEVER = 3600.0
STARTS: list[tuple[Delta, ...]] = [(), (InputTokens(40),), (Usage(40, 0),), (Usage(40, 1),)]
"""First chunks without output: an event that names the response, and early reports."""


@pytest.fixture
async def house(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(attempts, "RETRY_PAUSE_S", 0.001)
    async with open_house(sqlite_url, Deadlines(first_s=0.6, idle_s=0.2, total_s=NEVER, ping_s=NEVER)) as made:
        yield made


def start(*deltas: Delta) -> StreamChunk:
    return StreamChunk(b"<start>", deltas)


@pytest.mark.parametrize("deltas", STARTS)
async def test_a_failure_before_any_output_is_retried_and_costs_nothing(
    house: House, deltas: tuple[Delta, ...]
) -> None:
    listener = Ear()
    house.provider.streams = [[start(*deltas), errors.ProviderFailed()]]
    cause, charge = await fail(house, listener)
    assert isinstance(cause, errors.ProviderFailed)
    assert (charge.state, charge.basis, charge.cost_tokens, charge.error) == ("released", "none", 0, "provider_error")
    assert (len(house.provider.asked), listener.heard) == (2, [])


@pytest.mark.parametrize("deltas", STARTS)
async def test_the_client_receives_the_chunks_of_the_attempt_that_succeeds_in_order(
    house: House, deltas: tuple[Delta, ...]
) -> None:
    listener = Ear()
    house.provider.streams = [
        [StreamChunk(b"<never>", deltas), errors.ProviderFailed()],
        [start(*deltas), StreamChunk(b"<ping>", ()), text("yes"), *ending()],
    ]
    result = await house.listen(listener)
    assert (listener.said, result.outcome.tail) == (b"<start><ping>yes<finish>", b"<usage>")
    assert_charged(await house.charge(), "provider", 40, 10)


async def test_a_fallback_follows_a_failure_before_any_output(house: House) -> None:
    house.model(fallbacks=("second",))
    house.model("second", fallbacks=())
    failing = [start(), errors.ProviderFailed()]
    house.provider.streams = [failing, failing, [start(), text("yes"), *ending()]]
    listener = Ear()
    result = await house.listen(listener)
    assert (result.model, listener.said) == ("second", b"<start>yes<finish>")
    charges = await house.charges_by_model()
    assert (charges["m"].state, charges["m"].cost_tokens, charges["second"].cost_tokens) == ("released", 0, 50)


@pytest.mark.parametrize("delta", [TextDelta("x"), ReasoningDelta("x"), ToolCallDelta(0, "c", "x", "")])
async def test_a_failure_after_output_is_charged_and_not_retried(house: House, delta: Delta) -> None:
    listener = Ear()
    house.provider.streams = [[start(), StreamChunk(b"x", (delta,)), errors.ProviderFailed()]]
    cause, charge = await fail(house, listener)
    assert isinstance(cause, errors.ProviderInterrupted)
    assert_charged(charge, "counted", INPUT_TOKENS, 1)
    assert (listener.said, len(house.provider.asked)) == (b"<start>x", 1)


async def test_an_answer_without_output_is_delivered_before_its_end(house: House) -> None:
    listener = Ear()
    end = StreamChunk(b"<end>", (*ending()[0].deltas, Usage(40, 0)), last=True)
    house.provider.streams = [[start(), end]]
    result = await house.listen(listener)
    assert (listener.said, result.outcome.tail) == (b"<start>", b"<end>")
    assert_charged(await house.charge(), "provider", 40, 0)


async def test_only_so_much_is_held_back(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """After that, the stream is the client's, and its failure is charged."""
    monkeypatch.setattr(streaming, "MAX_HELD_BACK_CHUNKS", 3)
    listener = Ear()
    house.provider.streams = [[*[start()] * 5, errors.ProviderFailed()]]
    cause, charge = await fail(house, listener)
    assert isinstance(cause, errors.ProviderInterrupted)
    assert_charged(charge, "counted", INPUT_TOKENS, 0)
    assert (listener.said, len(house.provider.asked)) == (b"<start>" * 5, 1)


async def test_only_so_many_bytes_are_held_back(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "MAX_HELD_BACK_BYTES", 10)
    listener = Ear()
    house.provider.streams = [[*[start()] * 3, errors.ProviderFailed()]]
    await fail(house, listener)
    assert listener.said == b"<start>" * 3


@pytest.mark.parametrize("chunks", [[], [start()], [start(), text("Hello")]], ids=["at once", "started", "output"])
async def test_a_failure_that_reports_its_usage_is_charged_and_not_retried(
    house: House, chunks: list[StreamChunk]
) -> None:
    house.provider.streams = [[*chunks, BilledFailure(Usage(45, 12))]]
    cause, charge = await fail(house)
    assert cause.code == "provider_error"
    assert_charged(charge, "provider", 45, 12)
    assert (charge.error, len(house.provider.asked)) == ("provider_error", 1)


async def test_a_failure_that_reports_a_placeholder_is_counted(house: House) -> None:
    house.provider.streams = [[text("Hello"), BilledFailure(Usage(45, 0))]]
    _, charge = await fail(house)
    assert_charged(charge, "counted", 45, 5)


async def test_a_failure_after_a_report_of_all_output_is_charged_as_reported(house: House) -> None:
    house.provider.streams = [[text("Hello"), StreamChunk(b"", (Usage(40, 10),)), errors.ProviderFailed()]]
    _, charge = await fail(house)
    assert_charged(charge, "provider", 40, 10)


async def test_an_early_report_is_the_least_that_is_charged(house: House) -> None:
    early = StreamChunk(b"", (InconsistentUsage(60, 7, 70),))
    house.provider.streams = [[early, text("Hello"), errors.ProviderFailed()]]
    _, charge = await fail(house)
    assert_charged(charge, "counted", 60, 10)
