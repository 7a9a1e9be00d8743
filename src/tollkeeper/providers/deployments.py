"""The deployments of one model: the same model at several providers, or at one provider with several keys.

Each call goes to one of them, by their shares. A deployment that limits the rate, or refuses the operator's key, is
spared for a while: a preference only, so that no caller can close a model to the others. The circuit breaker is apart
from this: each deployment has a provider of its own, and with it a circuit of its own.
"""

import random
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import structlog

from tollkeeper import errors
from tollkeeper.providers.base import Model

RATE_LIMITED_S = 10
"""How long a deployment is spared that limits the rate without a Retry-After."""
REFUSED_S = 60
"""How long a deployment is spared that refuses the operator's key, or lacks the model."""
MAX_PAUSE_S = 300
"""The longest pause of a deployment, whatever its Retry-After says. It must be found when it is back."""

log = structlog.get_logger("tollkeeper.providers")


def _choose_one(models: list[Model], shares: list[int]) -> Model:
    return random.choices(models, shares)[0]


@dataclass(slots=True)
class _Pause:
    """Until when a deployment is spared, in seconds of the clock."""

    until: float = 0.0


class Deployments:
    """The deployments of one model, by the names of their providers.

    `models` are that model at each of its providers, and `shares` how much of the calls each gets, in proportion. `now`
    is a monotonic clock in seconds; `choose` picks one of a list by their shares.
    """

    def __init__(
        self,
        models: Iterable[Model],
        shares: Iterable[int],
        *,
        now: Callable[[], float] = time.monotonic,
        choose: Callable[[list[Model], list[int]], Model] = _choose_one,
    ) -> None:
        self.models = tuple(replace(model, deployments=self) for model in models)
        self._shares = {model.provider.name: share for model, share in zip(self.models, shares, strict=True)}
        self._pauses = {name: _Pause() for name in self._shares}
        self._now = now
        self._choose = choose

    def first(self) -> Model:
        """The deployment for a new call. While all are spared, the one whose pause ends first."""
        return self.another(()) or min(self.models, key=lambda model: self._pauses[model.provider.name].until)

    def another(self, tried: Collection[str]) -> Model | None:
        """A deployment whose provider is not one of those `tried`, and that is not spared; None if there is none."""
        now = self._now()
        ready = [
            model
            for model in self.models
            if self._pauses[model.provider.name].until <= now and model.provider.name not in tried
        ]
        return self._choose(ready, [self._shares[model.provider.name] for model in ready]) if ready else None

    def record_failure(self, model: Model, error: errors.ProviderError) -> None:
        """Spare the deployment for a while, if the failure shows that its next call would fail in the same way."""
        match error:
            case errors.ProviderRateLimited():
                pause_s = error.retry_after_s if error.retry_after_s is not None else RATE_LIMITED_S
            case errors.ProviderAuthFailed() | errors.ProviderLacksModel():
                pause_s = REFUSED_S
            case _:
                pause_s = error.retry_after_s or 0
        if pause_s:
            self._pause(model, min(pause_s, MAX_PAUSE_S), error.code)

    def view(self, models: Sequence[Model]) -> Model:
        """The model at some of these deployments, perhaps with a tenant's own keys.

        A deployment with another key is spared for itself: what it refuses to one key, it may answer to another.
        """
        same = {model.provider.name: model.provider for model in self.models}
        view = Deployments(
            models, [self._shares[model.provider.name] for model in models], now=self._now, choose=self._choose
        )
        for model in models:
            if model.provider is same[model.provider.name]:
                view._pauses[model.provider.name] = self._pauses[model.provider.name]
        return view.models[0]

    def _pause(self, model: Model, pause_s: int, code: str) -> None:
        name, now = model.provider.name, self._now()
        pause = self._pauses[name]
        if pause.until <= now:
            log.warning("providers.deployment_paused", model=model.name, provider=name, code=code, seconds=pause_s)
        pause.until = max(pause.until, now + pause_s)


def with_greatest_bounds(models: Sequence[Model]) -> list[Model]:
    """The same models, each with the greatest figures of all: a call may go to any of them."""
    return [
        replace(
            model,
            context_window=max(one.context_window for one in models),
            least_output=max(one.least_output for one in models),
            image_tokens=max(one.image_tokens for one in models),
            bills_hidden_output=any(one.bills_hidden_output for one in models),
        )
        for model in models
    ]


def deployment_at(model: Model, provider: str | None) -> Model:
    """The model at one of its providers: at this one, or at any for None. Raises ModelNotFound if it is not there."""
    if model.deployments is not None:
        at_provider = [one for one in model.deployments.models if one.provider.name == provider]
        model = next(iter(at_provider), None) or model.deployments.first()
    if provider not in (None, model.provider.name):
        raise errors.ModelNotFound
    return model
