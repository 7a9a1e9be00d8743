"""The exact cost of usage, and the most output that an amount pays for, for every weight and price."""

from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollkeeper.chat import Price, Usage
from tollkeeper.quota.rules.meter import UNBOUNDED_OUTPUT, Meter
from tollkeeper.quota.rules.models import Unit

tokens = st.integers(0, 2_000_000)
amounts = st.integers(0, 10**9)
prices = st.builds(Price, amounts, amounts, amounts, st.none() | amounts)
meters = st.builds(Meter, st.integers(0, 100_000), prices)
usages = st.builds(Usage, tokens, tokens, tokens, tokens)
units = st.sampled_from([Unit.TOKENS, Unit.MICRO_USD])
same_everywhere = settings(deadline=None, derandomize=True, database=None)
rooms = st.integers(-(10**6), 10**15)


@pytest.mark.parametrize(
    ("weight", "usage", "cost"),
    [
        (1_000, Usage(10, 5), 15),
        (1_500, Usage(1, 0), 2),
        (1_500, Usage(1, 1), 3),
        (1, Usage(1, 0), 1),
        (333, Usage(2, 1), 1),
        (0, Usage(10**6, 10**6), 0),
        (1_000, Usage(10, 5, 10), 15),
    ],
)
def test_tokens_are_weighed_and_rounded_up_once(weight: int, usage: Usage, cost: int) -> None:
    assert Meter(weight).tokens(usage) == cost


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        (Usage(0, 0), 0),
        (Usage(1, 0), 3),
        (Usage(4, 0), 10),
        (Usage(4, 0, 4), 5),
        (Usage(4, 0, 1_000), 5),
        (Usage(4, 1, 2), 18),
    ],
)
def test_money_has_a_price_of_its_own_for_cached_input(usage: Usage, cost: int) -> None:
    assert Meter(1_000, Price(2_500_000, 1_250_000, 10_000_000)).micro_usd(usage) == cost


@pytest.mark.parametrize(
    ("usage", "cost"),
    [(Usage(4, 0), 4), (Usage(4, 0, 0, 4), 5), (Usage(4, 0, 2, 9), 3), (Usage(4, 0, 9, 9), 1), (Usage(4, 1, 0, 4), 7)],
)
def test_money_has_a_price_of_its_own_for_what_is_written_to_a_cache(usage: Usage, cost: int) -> None:
    assert Meter(1_000, Price(1_000_000, 100_000, 2_000_000, 1_250_000)).micro_usd(usage) == cost


def test_a_model_without_a_price_has_no_cost_in_money_and_pays_for_nothing() -> None:
    assert Meter(1_000).micro_usd(Usage(1, 1)) is None
    assert Meter(1_000).hold(Unit.MICRO_USD, Usage(1, 1)) is None
    assert Meter(1_000).max_output(Unit.MICRO_USD, 0, 10**9) < 0


@same_everywhere
@given(meters, usages)
def test_a_cost_is_the_exact_one_rounded_up(meter: Meter, usage: Usage) -> None:
    assert meter.price is not None
    total = usage.input_tokens + usage.output_tokens
    assert meter.hold(Unit.TOKENS, usage) == ceil(Fraction(total * meter.weight_milli, 1_000))
    cached = min(usage.cached_input_tokens, usage.input_tokens)
    written = min(usage.cache_write_tokens, usage.input_tokens - cached)
    dear = meter.price.input if meter.price.cache_write is None else meter.price.cache_write
    exact = (
        Fraction((usage.input_tokens - cached - written) * meter.price.input, 10**6)
        + Fraction(cached * meter.price.cached_input, 10**6)
        + Fraction(written * dear, 10**6)
        + Fraction(usage.output_tokens * meter.price.output, 10**6)
    )
    assert meter.hold(Unit.MICRO_USD, usage) == ceil(exact)


@same_everywhere
@given(meters, units, tokens, rooms)
def test_the_most_output_is_the_largest_that_fits(meter: Meter, unit: Unit, input_tokens: int, room: int) -> None:
    most = meter.max_output(unit, input_tokens, room)
    if most >= 0:
        cost = meter.hold(unit, meter.most_expensive_usage(input_tokens, most))
        assert cost is not None
        assert cost <= room
    more = meter.hold(unit, meter.most_expensive_usage(input_tokens, max(0, most + 1)))
    assert more is not None
    per_token = meter.weight_milli if unit is Unit.TOKENS else meter.price.output if meter.price else 0
    assert more > room or (most >= 0 and per_token == 0)


@same_everywhere
@given(units, tokens, st.integers(0, 10**9), st.builds(Price, amounts, amounts, st.just(0)))
def test_free_output_is_unbounded_where_the_input_fits(unit: Unit, input_tokens: int, room: int, price: Price) -> None:
    meter = Meter(0, price)
    fits = (meter.hold(unit, meter.most_expensive_usage(input_tokens, 0)) or 0) <= room
    assert (meter.max_output(unit, input_tokens, room) >= 10**9) == fits


@same_everywhere
@given(meters, units, usages)
def test_a_hold_covers_the_most_expensive_usage(meter: Meter, unit: Unit, usage: Usage) -> None:
    """Whichever is the most expensive: input, cached input, or what is written to a cache."""
    most, cost = (
        meter.hold(unit, meter.most_expensive_usage(usage.input_tokens, usage.output_tokens)),
        meter.hold(unit, usage),
    )
    assert most is not None
    assert cost is not None
    assert cost <= most


@pytest.mark.parametrize("unit", [Unit.REQUESTS, Unit.CONCURRENCY])
def test_a_call_holds_one_request_and_one_slot_whatever_it_costs(unit: Unit) -> None:
    meter = Meter(0)
    assert meter.hold(unit, Usage(10**6, 10**6)) == 1
    assert meter.max_output(unit, 10**6, 1) == UNBOUNDED_OUTPUT
    assert meter.max_output(unit, 0, 0) < 0
