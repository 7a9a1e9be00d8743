"""What callers have sent is bounded, for each and for all together, and counts until the call is over."""

import pytest

from tollkeeper.api.body_budget import BodyBudget
from tollkeeper.errors import Overloaded, RateLimited


def test_one_user_holds_so_much_and_no_more_and_the_others_do_not_suffer() -> None:
    bodies = BodyBudget(max_per_user=10, max_in_total=100)
    with bodies.count(1) as first, bodies.count(1) as second, bodies.count(2) as other:
        first.grow(6)
        second.grow(4)
        with pytest.raises(RateLimited) as raised:
            second.grow(1)
        assert raised.value.retry_after_s == 1
        other.grow(10)


def test_all_together_hold_so_much_and_no_more() -> None:
    bodies = BodyBudget(max_per_user=10, max_in_total=15)
    with bodies.count(1) as one, bodies.count(2) as other:
        one.grow(10)
        other.grow(5)
        with pytest.raises(Overloaded) as raised:
            other.grow(1)
        assert raised.value.retry_after_s == 1


def test_what_was_held_is_given_back_once_however_the_call_ends() -> None:
    bodies = BodyBudget(max_per_user=10, max_in_total=10)
    for user_id in (1, 1, 2):
        with bodies.count(user_id) as held:
            held.grow(4)
            held.grow(6)
        with pytest.raises(RateLimited):
            _fail_after_10(bodies, user_id)


def _fail_after_10(bodies: BodyBudget, user_id: int) -> None:
    with bodies.count(user_id) as held:
        held.grow(10)
        held.grow(1)
