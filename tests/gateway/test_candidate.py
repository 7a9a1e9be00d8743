"""The terms of a candidate: by the bytes of its body, then by an exact count, and never below its possible cost."""

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

MESSAGE_OVERHEAD_TOKENS = 8


ONE_MESSAGE = InputSize(1)


def make_candidate(
    input_size: InputSize = ONE_MESSAGE,
    *,
    choices: int = 1,
    has_tokenizer: bool = True,
    attributes: dict[str, Any] | None = None,
    **call_fields: Any,
) -> Candidate:
    provider = FakeProvider(input_size=input_size, has_tokenizer=has_tokenizer)
    model = Model("m", provider, **{"price": PRICE} | (attributes or {}))
    call_input = replace(make_call().input, choices=choices)
    candidate = make_call(input=call_input, **call_fields)
    return Candidate(candidate, model, provider.prepare(model, call_input), 500)


async def test_terms_name_the_surface_the_provider_the_model_and_the_meter() -> None:
    terms = await make_candidate(attributes={"weight_milli": 1500}, surface="chat").byte_terms()
    assert (terms.surface, terms.provider, terms.model, terms.meter) == ("chat", "fake", "m", Meter(1500, PRICE))


async def test_byte_terms_bound_the_input_by_its_bytes_and_want_the_output_in_full() -> None:
    terms = await make_candidate(InputSize(3)).byte_terms()
    assert terms.input_bound == BODY_BYTES + 3 * MESSAGE_OVERHEAD_TOKENS + OVERHEAD
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
async def test_more_output_is_wanted_of_a_model_with_hidden_output_if_its_window_has_room(
    window: int, choices: int, wanted: int
) -> None:
    attributes = {"bills_hidden_output": True, "context_window": window}
    assert (await make_candidate(choices=choices, attributes=attributes).byte_terms()).wanted_output == wanted
    assert (
        await make_candidate(choices=choices, attributes=attributes, max_output=7).byte_terms()
    ).wanted_output == 7 * choices


async def test_exact_terms_bound_the_input_by_its_count_and_accept_less_output() -> None:
    terms = await make_candidate(InputSize(3), attributes={"least_output": 40}).exact_terms()
    assert terms.input_bound == INPUT_TOKENS + 3 * MESSAGE_OVERHEAD_TOKENS + OVERHEAD
    assert (terms.wanted_output, terms.least_output) == (500, 40)


async def test_exact_terms_without_a_tokenizer_bound_the_input_by_its_bytes_and_accept_less_output() -> None:
    terms = await make_candidate(InputSize(3), has_tokenizer=False, attributes={"least_output": 40}).exact_terms()
    assert terms.input_bound == BODY_BYTES + 3 * MESSAGE_OVERHEAD_TOKENS + OVERHEAD
    assert (terms.wanted_output, terms.least_output) == (500, 40)


async def test_a_call_without_a_tokenizer_is_granted_the_output_that_fits_beside_its_bytes(
    sqlite_url: str,
) -> None:
    async with open_gateway(sqlite_url) as gateway:
        gateway.provider.has_tokenizer = False
        await set_limit(
            gateway.ledger, user_quota(gateway.caller), BODY_BYTES + MESSAGE_OVERHEAD_TOKENS + OVERHEAD + 77
        )
        await gateway.complete()
        charge = await gateway.charge()
        assert (charge.input_bound, charge.granted_output) == (BODY_BYTES + MESSAGE_OVERHEAD_TOKENS + OVERHEAD, 77)
        assert gateway.provider.limits == [77]


async def test_a_caller_with_a_quota_of_zero_is_refused_without_a_count(sqlite_url: str) -> None:
    """No exact count would make the call fit."""
    async with open_gateway(sqlite_url) as gateway:
        await set_limit(gateway.ledger, user_quota(gateway.caller), 0)
        with pytest.raises(QuotaExceeded):
            await gateway.complete()
        assert gateway.provider.input_counts == 0


async def test_the_callers_own_output_limit_is_wanted_in_full_even_below_the_least_output() -> None:
    for max_output in (5, 2000):
        candidate = make_candidate(max_output=max_output)
        for terms in (await candidate.byte_terms(), await candidate.exact_terms()):
            assert (terms.wanted_output, terms.least_output) == (max_output, max_output)


async def test_the_least_output_is_never_more_than_the_wanted_output() -> None:
    terms = await replace(make_candidate(attributes={"least_output": 256}), default_output=100).exact_terms()
    assert (terms.wanted_output, terms.least_output) == (100, 100)


async def test_images_are_counted_by_number_and_not_by_their_bytes() -> None:
    terms = await make_candidate(InputSize(1, images=2, image_bytes=900)).byte_terms()
    assert terms.input_bound == BODY_BYTES - 900 + 2 * IMAGE_TOKENS + MESSAGE_OVERHEAD_TOKENS + OVERHEAD
    terms = await make_candidate(InputSize(1, images=2, image_bytes=900), attributes={"image_tokens": 7}).byte_terms()
    assert terms.input_bound == BODY_BYTES - 900 + 2 * 7 + MESSAGE_OVERHEAD_TOKENS + OVERHEAD


async def test_image_bytes_beyond_the_size_of_the_body_are_no_discount() -> None:
    terms = await make_candidate(
        InputSize(1, images=1, image_bytes=BODY_BYTES + 900), attributes={"image_tokens": 7}
    ).byte_terms()
    assert terms.input_bound == 7 + MESSAGE_OVERHEAD_TOKENS + OVERHEAD


async def test_a_call_with_tools_has_a_larger_overhead() -> None:
    candidate = make_candidate(InputSize(1, tools=True))
    assert (await candidate.byte_terms()).input_bound == BODY_BYTES + MESSAGE_OVERHEAD_TOKENS + OVERHEAD_WITH_TOOLS
    assert (await candidate.exact_terms()).input_bound == INPUT_TOKENS + MESSAGE_OVERHEAD_TOKENS + OVERHEAD_WITH_TOOLS
    candidate = make_candidate(InputSize(1, tools=True), attributes={"overhead_with_tools": 3})
    assert (await candidate.byte_terms()).input_bound == BODY_BYTES + MESSAGE_OVERHEAD_TOKENS + 3


async def test_each_of_several_choices_may_be_as_long_as_the_limit() -> None:
    candidate = make_candidate(choices=4, max_output=25)
    assert (await candidate.byte_terms()).wanted_output == (await candidate.exact_terms()).least_output == 100
    assert [candidate.output_limit(granted) for granted in (100, 99, 4)] == [25, 24, 1]


async def test_each_of_several_choices_may_fill_the_window() -> None:
    assert make_candidate(choices=8, attributes={"context_window": 8192}).max_output == 8 * 8192


async def test_the_least_output_is_multiplied_by_the_number_of_choices() -> None:
    terms = await make_candidate(choices=4, attributes={"least_output": 30}).exact_terms()
    assert (terms.wanted_output, terms.least_output) == (2000, 120)


async def test_a_call_without_output_wants_no_output() -> None:
    candidate = make_candidate(without_output=True)
    for terms in (await candidate.byte_terms(), await candidate.exact_terms()):
        assert (terms.wanted_output, terms.least_output) == (0, 0)


EXACT_INPUT_BOUND = INPUT_TOKENS + MESSAGE_OVERHEAD_TOKENS + OVERHEAD


async def test_a_cap_is_applied_to_the_exact_count_from_the_start() -> None:
    candidate = make_candidate(allocation=EXACT_INPUT_BOUND + 77)
    for terms in (await candidate.byte_terms(), await candidate.exact_terms()):
        assert (terms.input_bound, terms.wanted_output, terms.least_output) == (EXACT_INPUT_BOUND, 77, 16)


async def test_a_cap_is_in_weighted_tokens() -> None:
    terms = await make_candidate(
        allocation=2 * (EXACT_INPUT_BOUND + 77), attributes={"weight_milli": 2000}
    ).byte_terms()
    assert terms.wanted_output == 77


@pytest.mark.parametrize(
    ("make", "allocation"),
    [
        (lambda allocation: make_candidate(allocation=allocation), EXACT_INPUT_BOUND + 16),
        (lambda allocation: make_candidate(allocation=allocation, max_output=100), EXACT_INPUT_BOUND + 100),
        (lambda allocation: make_candidate(allocation=allocation, max_output=5), EXACT_INPUT_BOUND + 5),
        (lambda allocation: make_candidate(allocation=allocation, choices=3), EXACT_INPUT_BOUND + 48),
        (lambda allocation: make_candidate(allocation=allocation, without_output=True), EXACT_INPUT_BOUND),
    ],
)
async def test_a_cap_that_is_too_small_by_one_token_is_an_invalid_request(
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
    candidate = make_candidate(
        choices=choices, allocation=allocation, max_output=max_output, attributes={"weight_milli": weight}
    )
    try:
        terms = await candidate.byte_terms()
    except InvalidRequest:
        return
    most = terms.input_bound + terms.wanted_output
    assert -(-most * weight // 1000) <= allocation
    assert 0 < terms.least_output <= terms.wanted_output
    assert candidate.output_limit(terms.wanted_output) * choices <= terms.wanted_output


def test_a_model_call_has_no_limits_by_default() -> None:
    call_fields = ModelCall("query", CallInput(lambda: make_call().input.chat_request))
    assert (call_fields.model, call_fields.max_output, call_fields.allocation, call_fields.without_output) == (
        None,
        None,
        None,
        False,
    )
