"""The health of a server: what is wrong at this moment, and how bad it is.

A check is a function that returns the present problems of one part, from what the part knows anyway.
"""

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple


class HealthState(StrEnum):
    """`degraded`: calls are served, and something needs an operator. `unhealthy`: no call can be admitted."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


class Problem(NamedTuple):
    """What is wrong with one part. `state` is what the server is because of it. `since_ms`: None if it is not known.

    `detail` is one sentence for operators, without any text or secret of a user.
    """

    check: str
    state: HealthState
    detail: str
    since_ms: int | None = None


HealthCheck = Callable[[], Iterable[Problem]]
"""The present problems of one part; none if it is well. It must neither block nor raise."""


class Health:
    """All checks of a server."""

    def __init__(self, checks: Sequence[HealthCheck] = (), is_stopping: Callable[[], bool] = lambda: False) -> None:
        """`is_stopping`: whether the server is about to stop, and should get no further calls."""
        self._checks = checks
        self.is_stopping = is_stopping

    def problems(self) -> list[Problem]:
        """What is wrong at this moment."""
        return [problem for check in self._checks for problem in check()]


def worst(problems: Iterable[Problem]) -> HealthState:
    """The state of a server with these problems."""
    order = list(HealthState)
    return max((problem.state for problem in problems), key=order.index, default=HealthState.HEALTHY)
