"""The path of a call, with a real ledger on SQLite and a scripted provider."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from support.factories import set_limit, user_quota
from support.gateway import (
    EXACT_INPUT_BOUND,
    INPUT_BOUND,
    INPUT_TOKENS,
    GatewayUnderTest,
    RecordingListener,
    make_call,
    open_gateway,
    text_chunk,
)
from tollkeeper import errors
from tollkeeper.chat import Completion, InconsistentUsage, ToolCall, Usage
from tollkeeper.gateway import attempts
from tollkeeper.gateway.results import CallFailed, CallResult, IdempotentCall
from tollkeeper.providers.base import BilledFailure
from tollkeeper.quota import reservation as reservation_module
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest, StoredResponse
from tollkeeper.quota.rules.models import Basis

UNBILLED = (errors.ProviderUnavailable, errors.ProviderFailed, errors.ProviderRateLimited, errors.ProviderAuthFailed)
BILLED = (errors.ProviderTimeout, errors.ProviderInterrupted, errors.ProviderBadResponse)


@pytest.fixture
async def gateway(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GatewayUnderTest]:
    monkeypatch.setattr(attempts, "RETRY_PAUSE_S", 0.001)
    async with open_gateway(sqlite_url) as opened:
        yield opened


def idempotent_call(key: str = "key", fingerprint: str = "f") -> IdempotentCall:
    """A key, and a stored response that is the text of the answer and its cost."""

    def render(result: CallResult) -> StoredResponse:
        body = f"{result.completion.text} {result.charge.cost_tokens}"
        return StoredResponse(200, "text/plain", body.encode())

    return IdempotentCall(KeyedRequest(key, fingerprint), render)


async def test_with_enough_quota_the_byte_bound_is_held_in_full_and_nothing_is_counted(
    gateway: GatewayUnderTest,
) -> None:
    result = await gateway.complete()
    charge = await gateway.charge()
    assert (charge.input_bound, charge.granted_output, charge.held_tokens) == (INPUT_BOUND, 500, INPUT_BOUND + 500)
    assert (charge.cost_tokens, charge.cost_micro_usd, charge.basis) == (50, 60, "provider")
    assert (result.charge.charge_id, result.model, result.provider) == (charge.id, "m", "fake")
    assert gateway.provider.limits == [500]
    assert gateway.provider.input_counts == 0


async def test_with_less_quota_the_exact_count_is_held_in_full(gateway: GatewayUnderTest) -> None:
    await set_limit(gateway.ledger, user_quota(gateway.caller), INPUT_BOUND + 499)
    await gateway.complete()
    charge = await gateway.charge()
    assert (charge.input_bound, charge.granted_output) == (EXACT_INPUT_BOUND, 500)


async def test_with_little_quota_the_output_is_clamped_and_the_limit_is_sent_to_the_provider(
    gateway: GatewayUnderTest,
) -> None:
    await set_limit(gateway.ledger, user_quota(gateway.caller), EXACT_INPUT_BOUND + 16)
    await gateway.complete()
    assert gateway.provider.limits == [16]
    assert (await gateway.charge()).held_tokens == EXACT_INPUT_BOUND + 16


async def test_with_too_little_quota_the_call_is_refused_and_the_provider_is_not_called(
    gateway: GatewayUnderTest,
) -> None:
    await set_limit(gateway.ledger, user_quota(gateway.caller), EXACT_INPUT_BOUND + 15)
    with pytest.raises(errors.QuotaExceeded) as raised:
        await gateway.complete()
    assert (raised.value.limit, raised.value.needed) == (EXACT_INPUT_BOUND + 15, EXACT_INPUT_BOUND + 16)
    assert gateway.provider.calls == []


async def test_the_callers_own_output_limit_is_never_clamped(gateway: GatewayUnderTest) -> None:
    await set_limit(gateway.ledger, user_quota(gateway.caller), EXACT_INPUT_BOUND + 99)
    with pytest.raises(errors.QuotaExceeded):
        await gateway.complete(max_output=100)
    await gateway.complete(max_output=99)
    assert gateway.provider.limits == [99]


async def test_the_callers_own_cap_bounds_the_hold(gateway: GatewayUnderTest) -> None:
    await gateway.complete(allocation=EXACT_INPUT_BOUND + 30)
    assert gateway.provider.limits == [30]
    assert (await gateway.charge()).held_tokens == EXACT_INPUT_BOUND + 30


async def test_a_cap_that_is_too_small_is_an_invalid_request(gateway: GatewayUnderTest) -> None:
    for allocation, max_output in ((EXACT_INPUT_BOUND + 15, None), (EXACT_INPUT_BOUND + 30, 31), (1, None)):
        with pytest.raises(errors.InvalidRequest):
            await gateway.complete(allocation=allocation, max_output=max_output)
    assert gateway.provider.calls == []


@pytest.mark.parametrize(
    ("text", "refusal", "tokens"), [("No, never", "No, never", 9), ("12345", "No", 7), ("", "No", 2)]
)
async def test_a_refusal_is_counted_beside_the_text_and_never_twice(
    gateway: GatewayUnderTest, text: str, refusal: str, tokens: int
) -> None:
    gateway.provider.completions = [Completion(text, "refusal", None, refusal=refusal)]
    await gateway.complete()
    assert (await gateway.charge()).output_tokens == tokens


async def test_a_refusal_that_is_too_long_is_cut_in_the_text_and_in_the_refusal(gateway: GatewayUnderTest) -> None:
    gateway.provider.completions = [Completion("n" * 900, "refusal", Usage(40, 900), refusal="n" * 900)]
    result = await gateway.complete(max_output=100)
    assert (result.completion.text, result.completion.refusal) == ("n" * 100, "n" * 100)
    assert result.completion.finish_reason == "length"


async def test_without_a_possible_report_all_output_is_counted(gateway: GatewayUnderTest) -> None:
    calls = (ToolCall("id", "123", "4567"),)
    for usage in (None, Usage(5001, 1), Usage(1, 5001), Usage(0, 0), InconsistentUsage(1, None)):
        gateway.provider.completions = [Completion("12345", "stop", usage, calls, reasoning="12")]
        await gateway.complete()
    charges = await gateway.charges()
    assert {(one.basis, one.input_tokens, one.output_tokens) for one in charges} == {("counted", INPUT_TOKENS, 14)}


async def test_a_failure_that_reports_its_usage_is_charged_and_not_retried(gateway: GatewayUnderTest) -> None:
    gateway.set_model(fallbacks=("second",))
    gateway.set_model("second", fallbacks=())
    gateway.provider.completions = [BilledFailure(Usage(40, 10))]
    with pytest.raises(CallFailed):
        await gateway.complete()
    charge = await gateway.charge()
    assert (charge.basis, charge.cost_tokens, charge.error) == (Basis.PROVIDER, 50, "provider_error")
    assert len(gateway.provider.calls) == 1


async def test_a_zero_is_charged_as_reported_where_nothing_was_received(gateway: GatewayUnderTest) -> None:
    gateway.provider.completions = [Completion("", "stop", Usage(40, 0))]
    await gateway.complete()
    charge = await gateway.charge()
    assert (charge.basis, charge.cost_tokens, charge.state) == (Basis.PROVIDER, 40, "settled")


async def test_hidden_output_that_was_billed_does_not_shorten_the_answer(gateway: GatewayUnderTest) -> None:
    report = InconsistentUsage(40, 10, 750)
    gateway.provider.completions = [Completion("x" * 10, "stop", report, raw=b"all of it")]
    result = await gateway.complete(max_output=100)
    assert result.completion == Completion("x" * 10, "stop", Usage(40, 710, 0, 0, 700), raw=b"all of it")
    assert result.usage == Usage(40, 710, 0, 0, 700)


async def test_an_answer_beyond_the_limit_is_cut_and_its_whole_cost_is_booked(gateway: GatewayUnderTest) -> None:
    gateway.provider.completions = [Completion("x" * 900, "stop", Usage(1000, 900), raw=b"all of it")]
    result = await gateway.complete(max_output=100)
    assert result.completion == Completion("x" * 100, "length", Usage(1000, 900))
    charge = await gateway.charge()
    assert (charge.cost_tokens, charge.overrun) == (1900, True)


async def test_the_answer_of_a_model_without_output_is_never_cut(gateway: GatewayUnderTest) -> None:
    gateway.provider.completions = [Completion("", "stop", Usage(40, 3), raw=b"vectors")]
    result = await gateway.complete(without_output=True)
    assert result.completion.raw == b"vectors"
    charge = await gateway.charge()
    assert (charge.held_tokens, charge.cost_tokens) == (INPUT_BOUND, 43)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", [*UNBILLED, errors.ProviderRejected])
async def test_a_failure_that_cannot_have_been_billed_is_released(
    gateway: GatewayUnderTest, kind: type[errors.ProviderError], streaming: bool
) -> None:
    gateway.provider.completions, gateway.provider.streams = [kind()], [[kind()]]
    with pytest.raises(CallFailed) as raised:
        await (gateway.stream() if streaming else gateway.complete())
    assert (type(raised.value.cause), str(raised.value)) == (kind, kind.sentence)
    charge = await gateway.charge()
    assert (charge.state, charge.basis, charge.cost_tokens, charge.error) == ("released", "none", 0, kind.code)
    assert raised.value.charge is not None
    assert raised.value.charge.charge_id == charge.id


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", BILLED)
async def test_an_unknown_outcome_charges_the_input_and_forgives_the_rest_and_is_not_retried(
    gateway: GatewayUnderTest, kind: type[errors.ProviderError], streaming: bool
) -> None:
    gateway.set_model(fallbacks=("second",))
    gateway.set_model("second", fallbacks=())
    gateway.provider.completions, gateway.provider.streams = [kind()], [[kind()]]
    with pytest.raises(CallFailed):
        await (gateway.stream() if streaming else gateway.complete())
    charge = await gateway.charge()
    assert (charge.state, charge.basis, charge.cost_tokens) == ("settled", "unknown", INPUT_TOKENS)
    assert charge.forgiven_tokens == charge.held_tokens - INPUT_TOKENS
    assert gateway.provider.calls == [("m", 500)]


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_bug_in_a_provider_leaves_no_hold(gateway: GatewayUnderTest, streaming: bool) -> None:
    gateway.provider.completions, gateway.provider.streams = [ZeroDivisionError()], [[ZeroDivisionError()]]
    with pytest.raises(ZeroDivisionError):
        await (gateway.stream() if streaming else gateway.complete())
    charge = await gateway.charge()
    assert (charge.state, charge.basis, charge.error) == ("settled", "unknown", "ZeroDivisionError")


async def test_an_unknown_model_costs_nothing(gateway: GatewayUnderTest) -> None:
    with pytest.raises(errors.NotFound):
        await gateway.complete(model="other")
    assert await gateway.charges() == []


async def test_concurrent_calls_never_hold_more_than_the_limit(gateway: GatewayUnderTest) -> None:
    await set_limit(gateway.ledger, user_quota(gateway.caller), 3 * (INPUT_BOUND + 100))
    results = await asyncio.gather(*(gateway.complete(max_output=100) for _ in range(8)), return_exceptions=True)
    kinds = [type(result).__name__ for result in results]
    assert kinds.count("QuotaHeld") + kinds.count("CallResult") == 8
    assert kinds.count("CallResult") >= 3


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_call_with_a_key_is_made_once_and_its_response_is_replayed(
    gateway: GatewayUnderTest, streaming: bool
) -> None:
    listeners = (RecordingListener(), RecordingListener()) if streaming else (None, None)
    result = await (
        gateway.stream(listeners[0], idempotent_call()) if streaming else gateway.complete(idempotent_call())
    )
    replay = await gateway.replay(idempotent_call(), listeners[1])
    assert (result.charge.cost_tokens, replay.response.body) == (50, b"yes 50")
    assert {(one.basis, one.cost_tokens) for one in await gateway.charges()} == {("provider", 50), ("cache", 0)}
    assert len(gateway.provider.calls) == 1
    with pytest.raises(errors.IdempotencyMismatch):
        await gateway.complete(idempotent_call(fingerprint="other"))


async def test_a_stream_whose_client_disconnected_is_not_stored(gateway: GatewayUnderTest) -> None:
    listener = RecordingListener()
    gateway.provider.streams = [[text_chunk("half"), listener.disconnect_soon, asyncio.Event()]]
    result = await gateway.stream(listener, idempotent_call())
    assert result.outcome.cut_short
    with pytest.raises(errors.PreviousAttemptInterrupted):
        await gateway.complete(idempotent_call())


async def test_an_estimate_calls_no_provider_and_holds_nothing(gateway: GatewayUnderTest) -> None:
    estimate = await gateway.inner.estimate(gateway.caller, make_call())
    assert (estimate.model.name, estimate.input_tokens) == ("m", INPUT_TOKENS)
    assert (estimate.byte_terms.input_bound, estimate.exact_terms.input_bound) == (INPUT_BOUND, EXACT_INPUT_BOUND)
    assert await gateway.inner.count_input(gateway.caller, make_call()) == INPUT_TOKENS
    assert (await gateway.charges(), gateway.provider.calls) == ([], [])


async def test_a_renewal_measures_the_input_of_a_call_that_is_not_streamed_once(
    gateway: GatewayUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.provider.answer_gate = asyncio.Event()
    call = asyncio.create_task(gateway.complete())
    await gateway.provider.called.wait()
    [reservation] = gateway.ledger._calls._calls.values()
    assert reservation.checkpoint == (INPUT_BOUND, 0)
    await gateway.ledger.renew()
    assert (reservation.checkpoint, gateway.provider.input_counts) == ((INPUT_BOUND, 0), 0), "it has only begun"
    monkeypatch.setattr(reservation_module, "UNMEASURED_LEASE_SHARE", 0)
    await gateway.ledger.renew()
    await gateway.ledger.renew()
    assert (reservation.checkpoint, gateway.provider.input_counts) == ((INPUT_TOKENS, 0), 1)
    gateway.provider.answer_gate.set()
    await call
