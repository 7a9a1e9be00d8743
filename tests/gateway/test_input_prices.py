"""What a hold and a charge cover where the bytes of the input do not bound it, or where it costs more than usual."""

from dataclasses import replace

from support.gateway import BODY_BYTES, PRICE, FakeProvider, make_call
from tollkeeper.chat import Price, Usage
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.gateway.candidate import Candidate
from tollkeeper.providers.base import OVERHEAD, Model
from tollkeeper.quota.rules.meter import TOKENS_PER_MESSAGE
from tollkeeper.quota.rules.models import Unit

WINDOW = 200_000


def make_candidate(input_size: InputSize, price: Price | None = PRICE) -> Candidate:
    provider = FakeProvider(input_size=input_size)
    model = Model("m", provider, price=price, context_window=WINDOW)
    call_input = replace(make_call().input)
    return Candidate(make_call(input=call_input), model, provider.prepare(model, call_input), 500)


async def test_the_context_window_bounds_an_input_that_nothing_else_bounds() -> None:
    """Also where a tokenizer has counted the text: the pages of a PDF are not in it."""
    candidate = make_candidate(InputSize(1, images=2, image_bytes=900, unbounded=True))
    assert (await candidate.byte_terms()).input_bound == (await candidate.exact_terms()).input_bound == WINDOW


async def test_definitions_that_the_provider_inserts_again_count_again() -> None:
    terms = await make_candidate(InputSize(1, repeated_bytes=300)).byte_terms()
    assert terms.input_bound == BODY_BYTES + 300 + TOKENS_PER_MESSAGE + OVERHEAD


async def test_a_cache_for_an_hour_costs_twice_the_input_in_the_hold_and_in_the_charge() -> None:
    price = Price(input=1_000_000, cached_input=100_000, output=2_000_000, cache_write=1_250_000)
    usage = Usage(100, 0, cache_write_tokens=100)
    for size, expected in ((InputSize(1), 125), (InputSize(1, hour_cache=True), 200)):
        meter = (await make_candidate(size, price).byte_terms()).meter
        assert meter.micro_usd(usage) == expected
        assert meter.micro_usd(meter.most_expensive_usage(100, 0)) == expected
        assert meter.max_output(Unit.MICRO_USD, 100, expected) == 0


async def test_a_cache_write_that_already_costs_more_keeps_its_price() -> None:
    price = Price(input=1_000_000, cached_input=0, output=0, cache_write=3_000_000)
    assert price.with_hour_cache() == price
    assert (await make_candidate(InputSize(1, hour_cache=True), None).byte_terms()).meter.price is None
