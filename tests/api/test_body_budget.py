"""BodyBudget: the bytes of the bodies in flight are limited, per user and in total, until their calls end."""

import pytest

from tollkeeper.api.body_budget import BodyBudget
from tollkeeper.errors import Overloaded, RateLimited


def test_a_user_above_its_limit_is_refused_and_others_are_not_affected() -> None:
    budget = BodyBudget(max_per_user=10, max_in_total=100)
    with budget.count(1) as first, budget.count(1) as second, budget.count(2) as other:
        first.grow(6)
        second.grow(4)
        with pytest.raises(RateLimited) as raised:
            second.grow(1)
        assert raised.value.retry_after_s == 1
        other.grow(10)


def test_all_users_together_are_limited_too() -> None:
    budget = BodyBudget(max_per_user=10, max_in_total=15)
    with budget.count(1) as one, budget.count(2) as other:
        one.grow(10)
        other.grow(5)
        with pytest.raises(Overloaded) as raised:
            other.grow(1)
        assert raised.value.retry_after_s == 1


def test_the_bytes_of_a_call_are_released_once_whether_it_succeeds_or_fails() -> None:
    budget = BodyBudget(max_per_user=10, max_in_total=10)
    for user_id in (1, 1, 2):
        with budget.count(user_id) as body:
            body.grow(4)
            body.grow(6)
        with pytest.raises(RateLimited):
            _fail_after_10_bytes(budget, user_id)


def _fail_after_10_bytes(budget: BodyBudget, user_id: int) -> None:
    with budget.count(user_id) as body:
        body.grow(10)
        body.grow(1)
