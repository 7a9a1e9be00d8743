"""The path, with a real ledger on SQLite and a provider that does as it is told."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from factories import set_limit, user_quota
from house import BOUND, EXACT, INPUT_TOKENS, Ear, House, make_ask, open_house, text
from tollkeeper import errors
from tollkeeper.chat import Completion, InconsistentUsage, ToolCall, Usage
from tollkeeper.gateway import attempts
from tollkeeper.gateway.results import CallFailed, CallResult, IdempotentCall
from tollkeeper.providers.base import BilledFailure
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest, StoredResponse
from tollkeeper.quota.rules.models import Basis

UNBILLED = (errors.ProviderUnavailable, errors.ProviderFailed, errors.ProviderRateLimited, errors.ProviderAuthFailed)
BILLED = (errors.ProviderTimeout, errors.ProviderInterrupted, errors.ProviderBadResponse)


@pytest.fixture
async def house(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(attempts, "RETRY_PAUSE_S", 0.001)
    async with open_house(sqlite_url) as made:
        yield made


def keeping(key: str = "key", fingerprint: str = "f") -> IdempotentCall:
    """Keeps an answer as its text and what it cost."""

    def render(answer: CallResult) -> StoredResponse:
        said = f"{answer.completion.text} {answer.charge.cost_tokens}"
        return StoredResponse(200, "text/plain", said.encode())

    return IdempotentCall(KeyedRequest(key, fingerprint), render)


async def test_with_room_the_cheap_bound_is_held_in_full_and_nothing_is_counted(house: House) -> None:
    answer = await house.ask()
    charge = await house.charge()
    assert (charge.input_bound, charge.granted_output, charge.held_tokens) == (BOUND, 500, BOUND + 500)
    assert (charge.cost_tokens, charge.cost_micro_usd, charge.basis) == (50, 60, "provider")
    assert (answer.charge.charge_id, answer.model, answer.provider) == (charge.id, "m", "fake")
    assert house.provider.limits == [500]
    assert house.provider.counted == 0


async def test_with_less_room_the_exact_count_is_held_in_full(house: House) -> None:
    await set_limit(house.ledger, user_quota(house.caller), BOUND + 499)
    await house.ask()
    charge = await house.charge()
    assert (charge.input_bound, charge.granted_output) == (EXACT, 500)


async def test_with_little_room_the_output_is_clamped_and_the_provider_is_told(house: House) -> None:
    await set_limit(house.ledger, user_quota(house.caller), EXACT + 16)
    await house.ask()
    assert house.provider.limits == [16]
    assert (await house.charge()).held_tokens == EXACT + 16


async def test_with_too_little_room_the_call_is_refused_and_the_provider_not_asked(house: House) -> None:
    await set_limit(house.ledger, user_quota(house.caller), EXACT + 15)
    with pytest.raises(errors.QuotaExceeded) as raised:
        await house.ask()
    assert (raised.value.limit, raised.value.needed) == (EXACT + 15, EXACT + 16)
    assert house.provider.asked == []


async def test_a_limit_that_the_caller_gave_is_never_clamped(house: House) -> None:
    await set_limit(house.ledger, user_quota(house.caller), EXACT + 99)
    with pytest.raises(errors.QuotaExceeded):
        await house.ask(max_output=100)
    await house.ask(max_output=99)
    assert house.provider.limits == [99]


async def test_the_callers_own_cap_bounds_the_hold(house: House) -> None:
    await house.ask(allocation=EXACT + 30)
    assert house.provider.limits == [30]
    assert (await house.charge()).held_tokens == EXACT + 30


async def test_a_cap_that_is_too_small_is_the_callers_mistake(house: House) -> None:
    for allocation, max_output in ((EXACT + 15, None), (EXACT + 30, 31), (1, None)):
        with pytest.raises(errors.InvalidRequest):
            await house.ask(allocation=allocation, max_output=max_output)
    assert house.provider.asked == []


@pytest.mark.parametrize(
    ("text", "refusal", "tokens"), [("No, never", "No, never", 9), ("12345", "No", 7), ("", "No", 2)]
)
async def test_a_refusal_is_counted_beside_the_text_and_never_twice(
    house: House, text: str, refusal: str, tokens: int
) -> None:
    house.provider.answers = [Completion(text, "refusal", None, refusal=refusal)]
    await house.ask()
    assert (await house.charge()).output_tokens == tokens


async def test_a_refusal_that_is_too_long_is_cut_wherever_it_is_said(house: House) -> None:
    house.provider.answers = [Completion("n" * 900, "refusal", Usage(40, 900), refusal="n" * 900)]
    answer = await house.ask(max_output=100)
    assert (answer.completion.text, answer.completion.refusal) == ("n" * 100, "n" * 100)
    assert answer.completion.finish_reason == "length"


async def test_without_a_believable_report_everything_that_was_said_is_counted(house: House) -> None:
    calls = (ToolCall("id", "123", "4567"),)
    for usage in (None, Usage(5001, 1), Usage(1, 5001), Usage(0, 0), InconsistentUsage(1, None)):
        house.provider.answers = [Completion("12345", "stop", usage, calls, reasoning="12")]
        await house.ask()
    charges = await house.charges()
    assert {(one.basis, one.input_tokens, one.output_tokens) for one in charges} == {("counted", INPUT_TOKENS, 14)}


async def test_a_failure_that_reports_its_usage_is_charged_and_not_retried(house: House) -> None:
    house.model(fallbacks=("second",))
    house.model("second", fallbacks=())
    house.provider.answers = [BilledFailure(Usage(40, 10))]
    with pytest.raises(CallFailed):
        await house.ask()
    charge = await house.charge()
    assert (charge.basis, charge.cost_tokens, charge.error) == (Basis.PROVIDER, 50, "provider_error")
    assert len(house.provider.asked) == 1


async def test_a_zero_is_charged_as_reported_where_nothing_was_received(house: House) -> None:
    house.provider.answers = [Completion("", "stop", Usage(40, 0))]
    await house.ask()
    charge = await house.charge()
    assert (charge.basis, charge.cost_tokens, charge.state) == (Basis.PROVIDER, 40, "settled")


async def test_output_that_was_billed_unseen_does_not_shorten_the_answer(house: House) -> None:
    report = InconsistentUsage(40, 10, 750)
    house.provider.answers = [Completion("x" * 10, "stop", report, raw=b"all of it")]
    answer = await house.ask(max_output=100)
    assert answer.completion == Completion("x" * 10, "stop", Usage(40, 710, 0, 0, 700), raw=b"all of it")
    assert answer.usage == Usage(40, 710, 0, 0, 700)


async def test_an_answer_beyond_the_limit_is_cut_and_its_whole_cost_booked(house: House) -> None:
    house.provider.answers = [Completion("x" * 900, "stop", Usage(1000, 900), raw=b"all of it")]
    answer = await house.ask(max_output=100)
    assert answer.completion == Completion("x" * 100, "length", Usage(1000, 900))
    charge = await house.charge()
    assert (charge.cost_tokens, charge.overrun) == (1900, True)


async def test_what_only_reads_is_never_cut(house: House) -> None:
    house.provider.answers = [Completion("", "stop", Usage(40, 3), raw=b"vectors")]
    answer = await house.ask(without_output=True)
    assert answer.completion.raw == b"vectors"
    charge = await house.charge()
    assert (charge.held_tokens, charge.cost_tokens) == (BOUND, 43)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", [*UNBILLED, errors.ProviderRejected])
async def test_a_failure_that_cannot_have_been_billed_is_released(
    house: House, kind: type[errors.ProviderError], streaming: bool
) -> None:
    house.provider.answers, house.provider.streams = [kind()], [[kind()]]
    with pytest.raises(CallFailed) as raised:
        await (house.listen() if streaming else house.ask())
    assert (type(raised.value.cause), str(raised.value)) == (kind, kind.sentence)
    charge = await house.charge()
    assert (charge.state, charge.basis, charge.cost_tokens, charge.error) == ("released", "none", 0, kind.code)
    assert raised.value.charge is not None
    assert raised.value.charge.charge_id == charge.id


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", BILLED)
async def test_an_unknown_outcome_charges_the_input_and_forgives_the_rest_and_is_not_tried_again(
    house: House, kind: type[errors.ProviderError], streaming: bool
) -> None:
    house.model(fallbacks=("second",))
    house.model("second", fallbacks=())
    house.provider.answers, house.provider.streams = [kind()], [[kind()]]
    with pytest.raises(CallFailed):
        await (house.listen() if streaming else house.ask())
    charge = await house.charge()
    assert (charge.state, charge.basis, charge.cost_tokens) == ("settled", "unknown", INPUT_TOKENS)
    assert charge.forgiven_tokens == charge.held_tokens - INPUT_TOKENS
    assert house.provider.asked == [("m", 500)]


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_bug_in_a_provider_leaves_no_hold(house: House, streaming: bool) -> None:
    house.provider.answers, house.provider.streams = [ZeroDivisionError()], [[ZeroDivisionError()]]
    with pytest.raises(ZeroDivisionError):
        await (house.listen() if streaming else house.ask())
    charge = await house.charge()
    assert (charge.state, charge.basis, charge.error) == ("settled", "unknown", "ZeroDivisionError")


async def test_a_model_that_is_not_there_costs_nothing(house: House) -> None:
    with pytest.raises(errors.NotFound):
        await house.ask(model="other")
    assert await house.charges() == []


async def test_calls_at_once_never_hold_more_than_there_is(house: House) -> None:
    await set_limit(house.ledger, user_quota(house.caller), 3 * (BOUND + 100))
    results = await asyncio.gather(*(house.ask(max_output=100) for _ in range(8)), return_exceptions=True)
    kinds = [type(result).__name__ for result in results]
    assert kinds.count("QuotaHeld") + kinds.count("CallResult") == 8
    assert kinds.count("CallResult") >= 3


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_call_with_a_key_is_made_once_and_its_answer_given_again(house: House, streaming: bool) -> None:
    ears = (Ear(), Ear()) if streaming else (None, None)
    answer = await (house.listen(ears[0], keeping()) if streaming else house.ask(keeping()))
    again = await house.replay(keeping(), ears[1])
    assert (answer.charge.cost_tokens, again.response.body) == (50, b"yes 50")
    assert {(one.basis, one.cost_tokens) for one in await house.charges()} == {("provider", 50), ("cache", 0)}
    assert len(house.provider.asked) == 1
    with pytest.raises(errors.IdempotencyMismatch):
        await house.ask(keeping(fingerprint="other"))


async def test_a_stream_that_nobody_heard_out_is_not_kept(house: House) -> None:
    ear = Ear()
    house.provider.streams = [[text("half"), ear.leave_soon, asyncio.Event()]]
    answer = await house.listen(ear, keeping())
    assert answer.outcome.cut_short
    with pytest.raises(errors.PreviousAttemptInterrupted):
        await house.ask(keeping())


async def test_an_estimate_asks_nobody_and_holds_nothing(house: House) -> None:
    estimate = await house.gateway.estimate(make_ask())
    assert (estimate.model.name, estimate.input_tokens) == ("m", INPUT_TOKENS)
    assert (estimate.byte_terms.input_bound, estimate.exact_terms.input_bound) == (BOUND, EXACT)
    assert await house.gateway.count_input(make_ask()) == INPUT_TOKENS
    assert (await house.charges(), house.provider.asked) == ([], [])


async def test_a_renewal_measures_the_input_of_a_call_in_one_piece(house: House) -> None:
    house.provider.gate = asyncio.Event()
    call = asyncio.create_task(house.ask())
    await house.provider.asking.wait()
    [reservation] = house.ledger._calls._calls.values()
    assert reservation.checkpoint == (BOUND, 0)
    await house.ledger.renew()
    assert reservation.checkpoint == (BOUND, 0)  # a call is not measured before it has lasted for two renewals
    await house.ledger.renew()
    assert reservation.checkpoint == (INPUT_TOKENS, 0)
    house.provider.gate.set()
    await call
