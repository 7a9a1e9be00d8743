"""Retries and fallbacks after failures that cannot have been billed. Each model that is called is a charge."""

from collections.abc import AsyncIterator

import pytest

from support.gateway import (
    EXACT_INPUT_BOUND,
    INPUT_BOUND,
    INPUT_TOKENS,
    USAGE,
    FakeProvider,
    GatewayUnderTest,
    RecordingListener,
    final_chunks,
    open_gateway,
    text_chunk,
)
from tollkeeper import errors
from tollkeeper.chat import Completion
from tollkeeper.gateway import attempts
from tollkeeper.gateway.results import CallFailed
from tollkeeper.providers.base import MAX_CONTEXT

UNBILLED = (errors.ProviderUnavailable, errors.ProviderFailed, errors.ProviderRateLimited, errors.ProviderAuthFailed)
BILLED = (errors.ProviderTimeout, errors.ProviderInterrupted, errors.ProviderBadResponse)


@pytest.fixture
async def gateway(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GatewayUnderTest]:
    monkeypatch.setattr(attempts, "RETRY_PAUSE_S", 0.001)
    async with open_gateway(sqlite_url) as opened:
        yield opened


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", [errors.ProviderUnavailable, errors.ProviderFailed])
async def test_a_transient_failure_is_retried_once_on_the_same_hold(
    gateway: GatewayUnderTest, kind: type[errors.ProviderError], streaming: bool
) -> None:
    gateway.provider.completions.insert(0, kind())
    gateway.provider.streams.insert(0, [kind()])
    result = await (gateway.stream() if streaming else gateway.complete())
    assert result.completion.text == "yes"
    charge = await gateway.charge()
    assert (charge.cost_tokens, charge.basis, charge.error) == (50, "provider", None)
    assert gateway.provider.calls == [("m", 500)] * 2


async def test_a_provider_that_sends_retry_after_is_not_retried_but_its_fallback_is_called(
    gateway: GatewayUnderTest,
) -> None:
    gateway.set_model(fallbacks=("second",))
    gateway.set_model("second", fallbacks=())
    gateway.provider.completions.insert(0, errors.ProviderUnavailable(retry_after_s=7))
    assert (await gateway.complete()).model == "second"
    assert [model for model, _ in gateway.provider.calls] == ["m", "second"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", [errors.ProviderUnavailable, errors.ProviderFailed])
async def test_a_provider_that_sends_retry_after_is_not_retried_without_a_fallback_either(
    gateway: GatewayUnderTest, kind: type[errors.ProviderError], streaming: bool
) -> None:
    gateway.provider.completions.insert(0, kind(retry_after_s=7))
    gateway.provider.streams.insert(0, [kind(retry_after_s=7)])
    with pytest.raises(CallFailed) as raised:
        await (gateway.stream() if streaming else gateway.complete())
    assert isinstance(raised.value.cause, kind)
    assert raised.value.cause.retry_after_s == 7
    assert (gateway.provider.calls, (await gateway.charge()).state) == ([("m", 500)], "released")


@pytest.mark.parametrize("kind", [*UNBILLED, errors.ProviderRejected])
async def test_no_provider_is_called_more_than_twice(
    gateway: GatewayUnderTest, kind: type[errors.ProviderError]
) -> None:
    expected_attempts = 2 if kind in (errors.ProviderUnavailable, errors.ProviderFailed) else 1
    gateway.provider.completions = [*([kind()] * expected_attempts), Completion("too late", "stop", USAGE)]
    with pytest.raises(CallFailed):
        await gateway.complete()
    assert len(gateway.provider.calls) == expected_attempts


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", UNBILLED)
async def test_each_fallback_is_a_charge_of_its_own_with_its_own_price(
    gateway: GatewayUnderTest, kind: type[errors.ProviderError], streaming: bool
) -> None:
    gateway.set_model(fallbacks=("second", "third"))
    gateway.set_model("second", fallbacks=(), weight_milli=2000)
    gateway.set_model("third", fallbacks=(), weight_milli=3000)
    attempts_per_model = 1 + (kind in (errors.ProviderUnavailable, errors.ProviderFailed))
    gateway.provider.completions[:0] = [kind()] * (2 * attempts_per_model)
    gateway.provider.streams[:0] = [[kind()]] * (2 * attempts_per_model)
    listener = RecordingListener()
    result = await (gateway.stream(listener) if streaming else gateway.complete())
    charges = await gateway.charges_by_model()
    assert charges.keys() == {"m", "second", "third"}
    third = charges.pop("third")
    for failed in charges.values():
        assert (failed.state, failed.basis, failed.cost_tokens, failed.error) == ("released", "none", 0, kind.code)
    assert (third.cost_tokens, third.held_tokens, third.error) == (150, 3 * (INPUT_BOUND + 500), None)
    assert (result.model, result.charge.charge_id, result.charge.cost_tokens) == ("third", third.id, 150)
    assert [model for model, _ in gateway.provider.calls] == ["m"] * attempts_per_model + [
        "second"
    ] * attempts_per_model + ["third"]
    if streaming:
        assert listener.reservation is not None
        assert (listener.attached, listener.reservation.charge_id) == (2 * attempts_per_model + 1, third.id)


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_rejected_request_is_not_sent_to_a_fallback(gateway: GatewayUnderTest, streaming: bool) -> None:
    """The request is wrong for every provider."""
    gateway.set_model(fallbacks=("second",))
    gateway.set_model("second", fallbacks=())
    gateway.provider.completions.insert(0, errors.ProviderRejected())
    gateway.provider.streams.insert(0, [errors.ProviderRejected()])
    with pytest.raises(CallFailed):
        await (gateway.stream() if streaming else gateway.complete())
    assert gateway.provider.calls == [("m", 500)]
    assert (await gateway.charge()).state == "released"


async def test_when_every_fallback_fails_the_last_failure_is_raised_with_the_last_charge(
    gateway: GatewayUnderTest,
) -> None:
    gateway.set_model(fallbacks=("second",))
    gateway.set_model("second", fallbacks=("third",))
    gateway.set_model("third")
    gateway.provider.completions = [errors.ProviderRateLimited(), errors.ProviderAuthFailed()]
    with pytest.raises(CallFailed) as raised:
        await gateway.complete()
    charges = await gateway.charges_by_model()
    assert isinstance(raised.value.cause, errors.ProviderAuthFailed)
    assert raised.value.charge is not None
    assert raised.value.charge.charge_id == charges["second"].id
    assert [one.state for one in charges.values()] == ["released"] * 2
    assert [model for model, _ in gateway.provider.calls] == ["m", "second"], (
        "a fallback's own fallbacks are not called"
    )


async def test_a_fallback_that_exceeds_the_quota_raises_the_failure_before_it(
    gateway: GatewayUnderTest,
) -> None:
    gateway.set_model(fallbacks=("second",))
    gateway.set_model("second", fallbacks=(), weight_milli=100_000)
    gateway.provider.completions = [errors.ProviderRateLimited()]
    with pytest.raises(CallFailed) as raised:
        await gateway.complete()
    assert isinstance(raised.value.cause, errors.ProviderRateLimited)
    charge = await gateway.charge()
    assert (charge.model, charge.state, charge.error) == ("m", "released", "provider_rate_limited")
    assert raised.value.charge is not None
    assert raised.value.charge.charge_id == charge.id
    assert gateway.provider.calls == [("m", 500)]


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_fallback_that_fits_only_by_the_exact_count_is_called(
    gateway: GatewayUnderTest, streaming: bool
) -> None:
    gateway.set_model(fallbacks=("second",))
    gateway.set_model("second", fallbacks=(), weight_milli=8000)
    assert 8 * (EXACT_INPUT_BOUND + 500) <= 10_000 < 8 * (INPUT_BOUND + 500)
    gateway.provider.completions.insert(0, errors.ProviderRateLimited())
    gateway.provider.streams.insert(0, [errors.ProviderRateLimited()])
    result = await (gateway.stream() if streaming else gateway.complete())
    charges = await gateway.charges_by_model()
    assert (charges["m"].state, charges["m"].cost_tokens) == ("released", 0)
    assert (charges["second"].input_bound, charges["second"].held_tokens) == (
        EXACT_INPUT_BOUND,
        8 * (EXACT_INPUT_BOUND + 500),
    )
    assert (result.model, result.charge.cost_tokens) == ("second", 8 * 50)


@pytest.mark.parametrize("reason", ["unknown", "cannot be prepared"])
async def test_a_fallback_that_cannot_be_called_is_skipped(gateway: GatewayUnderTest, reason: str) -> None:
    gateway.set_model(fallbacks=("second", "third"))
    if reason == "cannot be prepared":
        gateway.set_model("second", provider=FakeProvider(prepare_error=errors.UnsupportedParameter()))
    gateway.set_model("third", fallbacks=())
    gateway.provider.completions.insert(0, errors.ProviderRateLimited())
    assert (await gateway.complete()).model == "third"
    charges = await gateway.charges_by_model()
    assert {name: charge.state for name, charge in charges.items()} == {"m": "released", "third": "settled"}


@pytest.mark.parametrize("reason", ["unknown", "cannot be prepared"])
async def test_a_last_fallback_that_cannot_be_called_raises_the_failure_before_it(
    gateway: GatewayUnderTest, reason: str
) -> None:
    gateway.set_model(fallbacks=("second",))
    if reason == "cannot be prepared":
        gateway.set_model("second", provider=FakeProvider(prepare_error=errors.UnsupportedParameter()))
    gateway.provider.completions = [errors.ProviderRateLimited()]
    with pytest.raises(CallFailed) as raised:
        await gateway.complete()
    assert isinstance(raised.value.cause, errors.ProviderRateLimited)
    assert (await gateway.charge()).state == "released"


async def test_after_the_first_output_there_is_no_retry_and_no_fallback(gateway: GatewayUnderTest) -> None:
    gateway.set_model(fallbacks=("second",))
    gateway.set_model("second", fallbacks=())
    gateway.provider.streams = [[text_chunk("12345"), errors.ProviderFailed()], [text_chunk("never"), *final_chunks()]]
    listener = RecordingListener()
    with pytest.raises(CallFailed) as raised:
        await gateway.stream(listener)
    assert isinstance(raised.value.cause, errors.ProviderInterrupted)
    charge = await gateway.charge()
    assert (charge.basis, charge.input_tokens, charge.output_tokens) == ("counted", INPUT_TOKENS, 5)
    assert (gateway.provider.calls, listener.raw) == ([("m", 500)], b"12345")


async def test_an_attempt_that_may_have_been_billed_is_the_last(gateway: GatewayUnderTest) -> None:
    gateway.set_model(fallbacks=("second",))
    gateway.set_model("second", fallbacks=())
    gateway.provider.completions = [errors.ProviderFailed(), errors.ProviderTimeout(), Completion("no", "stop", USAGE)]
    with pytest.raises(CallFailed) as raised:
        await gateway.complete()
    assert isinstance(raised.value.cause, errors.ProviderTimeout)
    assert ((await gateway.charge()).basis, len(gateway.provider.calls)) == ("unknown", 2)


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_context_overflow_is_not_retried_and_only_a_fallback_with_a_larger_window_is_called(
    gateway: GatewayUnderTest, streaming: bool
) -> None:
    gateway.set_model(fallbacks=("small", "unknown", "large"))
    for name, window in (("small", 5000), ("unknown", MAX_CONTEXT), ("large", 5001)):
        gateway.set_model(name, context_window=window, fallbacks=())
    gateway.provider.completions.insert(0, errors.ContextOverflow())
    gateway.provider.streams.insert(0, [errors.ContextOverflow()])
    result = await (gateway.stream() if streaming else gateway.complete())
    assert [model for model, _ in gateway.provider.calls] == ["m", "large"]
    charges = await gateway.charges_by_model()
    assert (charges["m"].state, charges["m"].cost_tokens, charges["m"].error) == (
        "released",
        0,
        "context_length_exceeded",
    )
    assert (result.model, charges["large"].cost_tokens) == ("large", 50)


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_context_overflow_without_a_larger_fallback_is_told_and_costs_nothing(
    gateway: GatewayUnderTest, streaming: bool
) -> None:
    gateway.set_model(fallbacks=("second",))
    gateway.set_model("second", fallbacks=())
    gateway.provider.completions.insert(0, errors.ContextOverflow(9, 8))
    gateway.provider.streams.insert(0, [errors.ContextOverflow(9, 8)])
    with pytest.raises(CallFailed) as raised:
        await (gateway.stream() if streaming else gateway.complete())
    assert isinstance(raised.value.cause, errors.ContextOverflow)
    assert gateway.provider.calls == [("m", 500)]
    charge = await gateway.charge()
    assert (charge.state, charge.cost_tokens, charge.error) == ("released", 0, "context_length_exceeded")


@pytest.mark.parametrize(("sent", "told"), [("tools[0].parameters", "tools"), ("messages[1]", None)])
async def test_of_a_translated_request_only_fields_with_the_same_name_on_every_wire_are_named(
    gateway: GatewayUnderTest, sent: str, told: str | None
) -> None:
    gateway.provider.completions = [errors.ProviderRejected(parameter=sent)]
    with pytest.raises(CallFailed) as raised:
        await gateway.complete()
    cause = raised.value.cause
    assert isinstance(cause, errors.ProviderRejected)
    assert (cause.parameter, cause.detail == cause.sentence) == (told, told is None)
