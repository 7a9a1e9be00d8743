"""Numbers of a server that are put together when they are read."""

from tollkeeper.jobs.service import LIMIT as JOBS_LIMIT
from tollkeeper.jobs.service import Jobs
from tollkeeper.providers.catalog import Catalog
from tollkeeper.rate_limits.throttle import LIMITS as REQUEST_LIMITS
from tollkeeper.rate_limits.throttle import Throttle
from tollkeeper.server import limits as edge
from tollkeeper.server.limits import Connections

_LIMITS = (*REQUEST_LIMITS, *edge.LIMITS)


def refusals_by_limit(throttle: Throttle, jobs: Jobs, connections: Connections) -> dict[tuple[str, ...], float]:
    """What each limit has refused, by the name of its setting."""
    found: dict[tuple[str, ...], float] = {
        (name,): throttle.refusals[name] + connections.refusals[name] for name in _LIMITS
    }
    return found | {(JOBS_LIMIT,): jobs.refused}


def open_circuits(catalog: Catalog) -> dict[tuple[str, ...], float]:
    """The open circuits of each provider: of its connection, and of its models."""
    found: dict[tuple[str, ...], float] = {}
    for breaker in catalog.breakers:
        found[breaker.name, "connection"] = breaker.is_disconnected
        found[breaker.name, "models"] = len(breaker.open_models)
    return found
