"""The deployments of a model: which one a call goes to, and for how long one that fails is spared."""

from collections import Counter
from dataclasses import dataclass

import pytest

from tollkeeper import errors
from tollkeeper.providers.base import Model
from tollkeeper.providers.deployments import (
    MAX_PAUSE_S,
    RATE_LIMITED_S,
    REFUSED_S,
    Deployments,
    with_greatest_bounds,
)
from tollkeeper.providers.echo import EchoProvider


@dataclass
class Clock:
    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


def deployments(*shares: int, clock: Clock | None = None) -> Deployments:
    """Deployments at the providers `p0`, `p1` and so on. The first of those that are ready is chosen."""
    models = [Model("m", EchoProvider(name=f"p{number}")) for number in range(len(shares))]
    return Deployments(models, shares, now=clock or Clock(), choose=lambda ready, _: ready[0])


def test_each_deployment_gets_its_share_of_the_calls() -> None:
    models = [Model("m", EchoProvider(name=name)) for name in ("few", "many")]
    pool = Deployments(models, [1, 9])
    chosen = Counter(pool.first().provider.name for _ in range(2_000))
    assert chosen["few"] > 20
    assert chosen["many"] > 4 * chosen["few"]


def test_each_deployment_knows_the_others() -> None:
    pool = deployments(1, 1)
    assert [model.deployments for model in pool.models] == [pool, pool]


def test_another_deployment_is_one_that_was_not_tried() -> None:
    pool = deployments(1, 1)
    other = pool.another({"p0"})
    assert other is pool.models[1]
    assert pool.another({"p0", "p1"}) is None


@pytest.mark.parametrize(
    ("error", "pause_s"),
    [
        (errors.ProviderRateLimited(), RATE_LIMITED_S),
        (errors.ProviderRateLimited(retry_after_s=7), 7),
        (errors.ProviderRateLimited(retry_after_s=3_600), MAX_PAUSE_S),
        (errors.ProviderAuthFailed(), REFUSED_S),
        (errors.ProviderLacksModel(), REFUSED_S),
        (errors.ProviderUnavailable(retry_after_s=3), 3),
    ],
)
def test_a_deployment_that_refuses_calls_is_spared_for_a_while(error: errors.ProviderError, pause_s: int) -> None:
    clock = Clock()
    pool = deployments(1, 1, clock=clock)
    pool.record_failure(pool.models[0], error)
    clock.now += pause_s - 0.1
    assert pool.first() is pool.models[1]
    assert pool.another({"p1"}) is None
    clock.now += 0.2
    assert pool.first() is pool.models[0]


@pytest.mark.parametrize(
    "error",
    [
        errors.ProviderFailed(),
        errors.ProviderUnavailable(),
        errors.ProviderRejected(),
        errors.ProviderTimeout(),
        errors.ProviderRateLimited(retry_after_s=0),
    ],
)
def test_a_failure_of_one_call_does_not_spare_a_deployment(error: errors.ProviderError) -> None:
    """A call could be the cause of it. The circuit breaker counts such failures."""
    pool = deployments(1, 1)
    pool.record_failure(pool.models[0], error)
    assert pool.first() is pool.models[0]


def test_a_later_and_shorter_pause_does_not_end_an_earlier_one() -> None:
    clock = Clock()
    pool = deployments(1, 1, clock=clock)
    for seconds in (60, 5):
        pool.record_failure(pool.models[0], errors.ProviderRateLimited(retry_after_s=seconds))
    clock.now += 30
    assert pool.first() is pool.models[1]


def test_while_all_are_spared_a_call_goes_to_the_one_whose_pause_ends_first() -> None:
    """So no caller can close a model to the others by provoking limits."""
    pool = deployments(1, 1, 1)
    for model, seconds in zip(pool.models, (60, 20, 40), strict=True):
        pool.record_failure(model, errors.ProviderRateLimited(retry_after_s=seconds))
    assert pool.first() is pool.models[1]


def test_every_deployment_has_the_greatest_bounds_of_all() -> None:
    provider = EchoProvider()
    small = Model("m", provider, context_window=8_000, image_tokens=9, least_output=16)
    large = Model("m", provider, context_window=9_000, image_tokens=5, least_output=256, bills_hidden_output=True)
    for model in with_greatest_bounds([small, large]):
        assert (model.context_window, model.image_tokens, model.least_output) == (9_000, 9, 256)
        assert model.bills_hidden_output
