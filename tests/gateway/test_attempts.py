"""What fails and cannot have been billed is tried again, or asked of another model: each model is a charge."""

from collections.abc import AsyncIterator

import pytest

from house import BOUND, EXACT, INPUT_TOKENS, USAGE, Ear, FakeProvider, House, ending, open_house, text
from tollkeeper import errors
from tollkeeper.chat import Completion
from tollkeeper.gateway import attempts
from tollkeeper.gateway.results import CallFailed

UNBILLED = (errors.ProviderUnavailable, errors.ProviderFailed, errors.ProviderRateLimited, errors.ProviderAuthFailed)
BILLED = (errors.ProviderTimeout, errors.ProviderInterrupted, errors.ProviderBadResponse)


@pytest.fixture
async def house(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(attempts, "RETRY_PAUSE_S", 0.001)
    async with open_house(sqlite_url) as made:
        yield made


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", [errors.ProviderUnavailable, errors.ProviderFailed])
async def test_what_a_provider_may_recover_from_is_tried_once_more_on_the_same_hold(
    house: House, kind: type[errors.ProviderError], streaming: bool
) -> None:
    house.provider.answers.insert(0, kind())
    house.provider.streams.insert(0, [kind()])
    answer = await (house.listen() if streaming else house.ask())
    assert answer.completion.text == "yes"
    charge = await house.charge()
    assert (charge.cost_tokens, charge.basis, charge.error) == (50, "provider", None)
    assert house.provider.asked == [("m", 500)] * 2


async def test_a_provider_that_says_when_to_come_back_is_not_tried_before(house: House) -> None:
    house.model(fallbacks=("second",))
    house.model("second", fallbacks=())
    house.provider.answers.insert(0, errors.ProviderUnavailable(retry_after_s=7))
    assert (await house.ask()).model == "second"
    assert [model for model, _ in house.provider.asked] == ["m", "second"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", [errors.ProviderUnavailable, errors.ProviderFailed])
async def test_nor_is_it_tried_at_all_where_there_is_no_fallback(
    house: House, kind: type[errors.ProviderError], streaming: bool
) -> None:
    house.provider.answers.insert(0, kind(retry_after_s=7))
    house.provider.streams.insert(0, [kind(retry_after_s=7)])
    with pytest.raises(CallFailed) as raised:
        await (house.listen() if streaming else house.ask())
    assert isinstance(raised.value.cause, kind)
    assert raised.value.cause.retry_after_s == 7
    assert (house.provider.asked, (await house.charge()).state) == ([("m", 500)], "released")


@pytest.mark.parametrize("kind", [*UNBILLED, errors.ProviderRejected])
async def test_nothing_is_tried_more_than_twice(house: House, kind: type[errors.ProviderError]) -> None:
    tries = 2 if kind in (errors.ProviderUnavailable, errors.ProviderFailed) else 1
    house.provider.answers = [*([kind()] * tries), Completion("too late", "stop", USAGE)]
    with pytest.raises(CallFailed):
        await house.ask()
    assert len(house.provider.asked) == tries


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", UNBILLED)
async def test_each_fallback_is_a_charge_of_its_own_with_its_own_price(
    house: House, kind: type[errors.ProviderError], streaming: bool
) -> None:
    house.model(fallbacks=("second", "third"))
    house.model("second", fallbacks=(), weight_milli=2000)
    house.model("third", fallbacks=(), weight_milli=3000)
    tried = 1 + (kind in (errors.ProviderUnavailable, errors.ProviderFailed))
    house.provider.answers[:0] = [kind()] * (2 * tried)
    house.provider.streams[:0] = [[kind()]] * (2 * tried)
    ear = Ear()
    answer = await (house.listen(ear) if streaming else house.ask())
    charges = await house.charges_by_model()
    assert charges.keys() == {"m", "second", "third"}
    third = charges.pop("third")
    for failed in charges.values():
        assert (failed.state, failed.basis, failed.cost_tokens, failed.error) == ("released", "none", 0, kind.code)
    assert (third.cost_tokens, third.held_tokens, third.error) == (150, 3 * (BOUND + 500), None)
    assert (answer.model, answer.charge.charge_id, answer.charge.cost_tokens) == ("third", third.id, 150)
    assert [model for model, _ in house.provider.asked] == ["m"] * tried + ["second"] * tried + ["third"]
    if streaming:
        assert ear.reservation is not None
        assert (ear.attached, ear.reservation.charge_id) == (2 * tried + 1, third.id)


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_request_that_was_rejected_is_asked_of_nobody_else(house: House, streaming: bool) -> None:
    """It is the caller's mistake, wherever it goes."""
    house.model(fallbacks=("second",))
    house.model("second", fallbacks=())
    house.provider.answers.insert(0, errors.ProviderRejected())
    house.provider.streams.insert(0, [errors.ProviderRejected()])
    with pytest.raises(CallFailed):
        await (house.listen() if streaming else house.ask())
    assert house.provider.asked == [("m", 500)]
    assert (await house.charge()).state == "released"


async def test_when_every_fallback_fails_the_last_failure_is_told_with_the_last_charge(house: House) -> None:
    house.model(fallbacks=("second",))
    house.model("second", fallbacks=("third",))
    house.model("third")
    house.provider.answers = [errors.ProviderRateLimited(), errors.ProviderAuthFailed()]
    with pytest.raises(CallFailed) as raised:
        await house.ask()
    charges = await house.charges_by_model()
    assert isinstance(raised.value.cause, errors.ProviderAuthFailed)
    assert raised.value.charge is not None
    assert raised.value.charge.charge_id == charges["second"].id
    assert [one.state for one in charges.values()] == ["released"] * 2
    assert [model for model, _ in house.provider.asked] == ["m", "second"], "a fallback's own fallbacks are not asked"


async def test_a_fallback_that_the_quota_has_no_room_for_gives_the_failure_that_led_to_it(house: House) -> None:
    house.model(fallbacks=("second",))
    house.model("second", fallbacks=(), weight_milli=100_000)
    house.provider.answers = [errors.ProviderRateLimited()]
    with pytest.raises(CallFailed) as raised:
        await house.ask()
    assert isinstance(raised.value.cause, errors.ProviderRateLimited)
    charge = await house.charge()
    assert (charge.model, charge.state, charge.error) == ("m", "released", "provider_rate_limited")
    assert raised.value.charge is not None
    assert raised.value.charge.charge_id == charge.id
    assert house.provider.asked == [("m", 500)]


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_fallback_that_fits_only_by_the_exact_count_is_asked(house: House, streaming: bool) -> None:
    house.model(fallbacks=("second",))
    house.model("second", fallbacks=(), weight_milli=8000)
    assert 8 * (EXACT + 500) <= 10_000 < 8 * (BOUND + 500)
    house.provider.answers.insert(0, errors.ProviderRateLimited())
    house.provider.streams.insert(0, [errors.ProviderRateLimited()])
    answer = await (house.listen() if streaming else house.ask())
    charges = await house.charges_by_model()
    assert (charges["m"].state, charges["m"].cost_tokens) == ("released", 0)
    assert (charges["second"].input_bound, charges["second"].held_tokens) == (EXACT, 8 * (EXACT + 500))
    assert (answer.model, answer.charge.cost_tokens) == ("second", 8 * 50)


@pytest.mark.parametrize("how", ["not there", "cannot be asked"])
async def test_a_fallback_that_cannot_be_asked_is_passed_over(house: House, how: str) -> None:
    house.model(fallbacks=("second", "third"))
    if how == "cannot be asked":
        house.model("second", provider=FakeProvider(refuses=errors.UnsupportedParameter()))
    house.model("third", fallbacks=())
    house.provider.answers.insert(0, errors.ProviderRateLimited())
    assert (await house.ask()).model == "third"
    charges = await house.charges_by_model()
    assert {name: charge.state for name, charge in charges.items()} == {"m": "released", "third": "settled"}


@pytest.mark.parametrize("how", ["not there", "cannot be asked"])
async def test_a_fallback_that_cannot_be_asked_gives_the_failure_that_led_to_it(house: House, how: str) -> None:
    house.model(fallbacks=("second",))
    if how == "cannot be asked":
        house.model("second", provider=FakeProvider(refuses=errors.UnsupportedParameter()))
    house.provider.answers = [errors.ProviderRateLimited()]
    with pytest.raises(CallFailed) as raised:
        await house.ask()
    assert isinstance(raised.value.cause, errors.ProviderRateLimited)
    assert (await house.charge()).state == "released"


async def test_after_the_first_piece_there_is_no_fallback_and_no_other_attempt(house: House) -> None:
    house.model(fallbacks=("second",))
    house.model("second", fallbacks=())
    house.provider.streams = [[text("12345"), errors.ProviderFailed()], [text("never"), *ending()]]
    ear = Ear()
    with pytest.raises(CallFailed) as raised:
        await house.listen(ear)
    assert isinstance(raised.value.cause, errors.ProviderInterrupted)
    charge = await house.charge()
    assert (charge.basis, charge.input_tokens, charge.output_tokens) == ("counted", INPUT_TOKENS, 5)
    assert (house.provider.asked, ear.said) == ([("m", 500)], b"12345")


async def test_an_attempt_that_may_be_billed_after_one_that_cannot_be_is_the_last(house: House) -> None:
    house.model(fallbacks=("second",))
    house.model("second", fallbacks=())
    house.provider.answers = [errors.ProviderFailed(), errors.ProviderTimeout(), Completion("no", "stop", USAGE)]
    with pytest.raises(CallFailed) as raised:
        await house.ask()
    assert isinstance(raised.value.cause, errors.ProviderTimeout)
    assert ((await house.charge()).basis, len(house.provider.asked)) == ("unknown", 2)
