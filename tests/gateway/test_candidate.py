"""How large a hold is asked for: by the bytes first, by the count then, and never less than it may cost."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.factories import set_limit, user_quota
from support.gateway import BODY_BYTES, INPUT_BOUND, INPUT_TOKENS, PRICE, FakeProvider, make_call, open_gateway
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.errors import InvalidRequest, QuotaExceeded
from tollkeeper.gateway.candidate import MIN_THINKING_OUTPUT, Candidate, ModelCall
from tollkeeper.providers.base import IMAGE_TOKENS, OVERHEAD, OVERHEAD_WITH_TOOLS, CallInput, Model
from tollkeeper.quota.rules.meter import Meter

MESSAGE = 8


ONE = InputSize(1)


def candidate(
    input_size: InputSize = ONE,
    *,
    choices: int = 1,
    known: bool = True,
    facts: dict[str, Any] | None = None,
    **ask: Any,
) -> Candidate:
    provider = FakeProvider(input_size=input_size, has_tokenizer=known)
    model = Model("m", provider, **{"price": PRICE} | (facts or {}))
    question = replace(make_call().input, choices=choices)
    asked = make_call(input=question, **ask)
    return Candidate(asked, model, provider.prepare(model, question), 500)


async def test_terms_say_whom_they_are_for() -> None:
    terms = await candidate(facts={"weight_milli": 1500}, surface="chat").byte_terms()
    assert (terms.surface, terms.provider, terms.model, terms.meter) == ("chat", "fake", "m", Meter(1500, PRICE))


async def test_first_the_bytes_bound_the_input_and_the_output_is_wanted_in_full() -> None:
    terms = await candidate(InputSize(3)).byte_terms()
    assert terms.input_bound == BODY_BYTES + 3 * MESSAGE + OVERHEAD
    assert (terms.wanted_output, terms.least_output) == (500, 500)


@pytest.mark.parametrize(
    ("window", "choices", "wanted"),
    [
        (200_000, 1, MIN_THINKING_OUTPUT),
        (200_000, 2, 2 * MIN_THINKING_OUTPUT),
        (INPUT_BOUND + 3_000, 1, 3_000),
        (INPUT_BOUND + 3_000, 2, 3_000),
        (INPUT_BOUND + 100, 1, 500),
    ],
)
async def test_of_a_model_that_thinks_unseen_more_is_wanted_if_its_window_has_room(
    window: int, choices: int, wanted: int
) -> None:
    facts = {"bills_hidden_output": True, "context_window": window}
    assert (await candidate(choices=choices, facts=facts).byte_terms()).wanted_output == wanted
    assert (await candidate(choices=choices, facts=facts, max_output=7).byte_terms()).wanted_output == 7 * choices


async def test_then_the_count_bounds_it_and_less_output_will_do() -> None:
    terms = await candidate(InputSize(3), facts={"least_output": 40}).exact_terms()
    assert terms.input_bound == INPUT_TOKENS + 3 * MESSAGE + OVERHEAD
    assert (terms.wanted_output, terms.least_output) == (500, 40)


async def test_where_the_vocabulary_is_not_known_the_bytes_bound_it_still_and_less_output_will_do() -> None:
    terms = await candidate(InputSize(3), known=False, facts={"least_output": 40}).exact_terms()
    assert terms.input_bound == BODY_BYTES + 3 * MESSAGE + OVERHEAD
    assert (terms.wanted_output, terms.least_output) == (500, 40)


async def test_what_no_vocabulary_bounds_is_admitted_with_as_much_output_as_fits_beside_its_bytes(
    sqlite_url: str,
) -> None:
    async with open_gateway(sqlite_url) as gateway:
        gateway.provider.has_tokenizer = False
        await set_limit(gateway.ledger, user_quota(gateway.caller), BODY_BYTES + MESSAGE + OVERHEAD + 77)
        await gateway.complete()
        charge = await gateway.charge()
        assert (charge.input_bound, charge.granted_output) == (BODY_BYTES + MESSAGE + OVERHEAD, 77)
        assert gateway.provider.limits == [77]


async def test_who_has_no_quota_at_all_is_refused_without_a_count(sqlite_url: str) -> None:
    """No count makes a call small enough."""
    async with open_gateway(sqlite_url) as gateway:
        await set_limit(gateway.ledger, user_quota(gateway.caller), 0)
        with pytest.raises(QuotaExceeded):
            await gateway.complete()
        assert gateway.provider.input_counts == 0


async def test_a_limit_that_the_caller_gave_is_wanted_in_full_even_where_it_is_below_the_least() -> None:
    for given_output in (5, 2000):
        asked = candidate(max_output=given_output)
        for terms in (await asked.byte_terms(), await asked.exact_terms()):
            assert (terms.wanted_output, terms.least_output) == (given_output, given_output)


async def test_the_least_is_never_more_than_what_is_wanted() -> None:
    terms = await replace(candidate(facts={"least_output": 256}), default_output=100).exact_terms()
    assert (terms.wanted_output, terms.least_output) == (100, 100)


async def test_pictures_are_priced_apart_from_the_bytes_they_came_in() -> None:
    terms = await candidate(InputSize(1, images=2, image_bytes=900)).byte_terms()
    assert terms.input_bound == BODY_BYTES - 900 + 2 * IMAGE_TOKENS + MESSAGE + OVERHEAD
    terms = await candidate(InputSize(1, images=2, image_bytes=900), facts={"image_tokens": 7}).byte_terms()
    assert terms.input_bound == BODY_BYTES - 900 + 2 * 7 + MESSAGE + OVERHEAD


async def test_pictures_that_are_more_than_all_that_is_sent_are_no_discount() -> None:
    terms = await candidate(
        InputSize(1, images=1, image_bytes=BODY_BYTES + 900), facts={"image_tokens": 7}
    ).byte_terms()
    assert terms.input_bound == 7 + MESSAGE + OVERHEAD


async def test_with_tools_the_provider_adds_more_of_its_own() -> None:
    asked = candidate(InputSize(1, tools=True))
    assert (await asked.byte_terms()).input_bound == BODY_BYTES + MESSAGE + OVERHEAD_WITH_TOOLS
    assert (await asked.exact_terms()).input_bound == INPUT_TOKENS + MESSAGE + OVERHEAD_WITH_TOOLS
    asked = candidate(InputSize(1, tools=True), facts={"overhead_with_tools": 3})
    assert (await asked.byte_terms()).input_bound == BODY_BYTES + MESSAGE + 3


async def test_each_of_several_choices_may_be_as_long_as_the_limit() -> None:
    asked = candidate(choices=4, max_output=25)
    assert (await asked.byte_terms()).wanted_output == (await asked.exact_terms()).least_output == 100
    assert [asked.output_limit(granted) for granted in (100, 99, 4)] == [25, 24, 1]


async def test_each_of_several_choices_may_fill_the_window() -> None:
    assert candidate(choices=8, facts={"context_window": 8192}).max_output == 8 * 8192


async def test_of_several_choices_each_has_the_least_that_a_model_needs() -> None:
    terms = await candidate(choices=4, facts={"least_output": 30}).exact_terms()
    assert (terms.wanted_output, terms.least_output) == (2000, 120)


async def test_what_only_reads_wants_no_output() -> None:
    asked = candidate(without_output=True)
    for terms in (await asked.byte_terms(), await asked.exact_terms()):
        assert (terms.wanted_output, terms.least_output) == (0, 0)


EXACT_INPUT_BOUND = INPUT_TOKENS + MESSAGE + OVERHEAD


async def test_a_cap_on_the_cost_counts_at_once_and_takes_what_fits() -> None:
    asked = candidate(allocation=EXACT_INPUT_BOUND + 77)
    for terms in (await asked.byte_terms(), await asked.exact_terms()):
        assert (terms.input_bound, terms.wanted_output, terms.least_output) == (EXACT_INPUT_BOUND, 77, 16)


async def test_a_cap_is_in_tokens_after_the_weight() -> None:
    terms = await candidate(allocation=2 * (EXACT_INPUT_BOUND + 77), facts={"weight_milli": 2000}).byte_terms()
    assert terms.wanted_output == 77


@pytest.mark.parametrize(
    ("make", "allocation"),
    [
        (lambda allocation: candidate(allocation=allocation), EXACT_INPUT_BOUND + 16),
        (lambda allocation: candidate(allocation=allocation, max_output=100), EXACT_INPUT_BOUND + 100),
        (lambda allocation: candidate(allocation=allocation, max_output=5), EXACT_INPUT_BOUND + 5),
        (lambda allocation: candidate(allocation=allocation, choices=3), EXACT_INPUT_BOUND + 48),
        (lambda allocation: candidate(allocation=allocation, without_output=True), EXACT_INPUT_BOUND),
    ],
)
async def test_a_cap_that_is_too_small_by_one_is_the_callers_mistake(
    make: Callable[[int], Candidate], allocation: int
) -> None:
    terms = await make(allocation).byte_terms()
    assert terms.input_bound + terms.least_output == allocation
    with pytest.raises(InvalidRequest, match="context_allocation"):
        await make(allocation - 1).byte_terms()


@given(
    weight=st.integers(0, 5000),
    allocation=st.integers(1, 10**6),
    choices=st.integers(1, 5),
    max_output=st.none() | st.integers(1, 2000),
)
async def test_a_call_never_costs_more_than_its_cap(
    weight: int, allocation: int, choices: int, max_output: int | None
) -> None:
    asked = candidate(choices=choices, allocation=allocation, max_output=max_output, facts={"weight_milli": weight})
    try:
        terms = await asked.byte_terms()
    except InvalidRequest:
        return
    most = terms.input_bound + terms.wanted_output
    assert -(-most * weight // 1000) <= allocation
    assert 0 < terms.least_output <= terms.wanted_output
    assert asked.output_limit(terms.wanted_output) * choices <= terms.wanted_output


def test_an_ask_has_no_limits_of_its_own() -> None:
    ask = ModelCall("query", CallInput(lambda: make_call().input.chat_request))
    assert (ask.model, ask.max_output, ask.allocation, ask.without_output) == (None, None, None, False)
