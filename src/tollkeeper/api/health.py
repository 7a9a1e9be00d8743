"""Health checks, and the root path with the version."""

from typing import Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from tollkeeper import __version__
from tollkeeper.api.dependencies import Services, ServicesDep
from tollkeeper.api.formats import Moment, iso
from tollkeeper.api.onlookers import OPTIONAL_LOGIN, SeesReasons
from tollkeeper.telemetry.health import HealthState, Problem, worst

router = APIRouter(tags=["operations"])


class WelcomeResponse(BaseModel):
    """The name and version of the server, and where its documentation, health check and console are."""

    name: str
    version: str
    docs: str
    health: str
    console: str


class LiveResponse(BaseModel):
    """The process responds."""

    status: Literal["ok"]


class ReadyResponse(BaseModel):
    """`unavailable`: no call can be admitted."""

    status: Literal["ok", "unavailable"]


class ProblemResponse(BaseModel):
    """What is wrong with one part of the server, and what the server is because of it. `since` is null if it is not
    known.
    """

    check: str
    status: HealthState
    detail: str
    since: Moment | None


class HealthResponse(BaseModel):
    """`degraded`: calls are served, and an operator should look. `unhealthy`: no call can be admitted.

    The other fields are null unless the caller is an operator. They are of the process that responds.
    """

    status: HealthState
    version: str | None = None
    provider: str | None = None
    calls_in_flight: int | None = None
    problems: list[ProblemResponse] | None = None


PROBLEMS_EXAMPLE = {
    "status": "degraded",
    "version": __version__,
    "provider": "openai",
    "calls_in_flight": 3,
    "problems": [
        {
            "check": "credentials",
            "status": "degraded",
            "detail": "The provider openai refuses its credential.",
            "since": "2027-11-20T09:30:00Z",
        }
    ],
}
SUMMARY_EXAMPLE = {"status": "healthy", "version": None, "provider": None, "calls_in_flight": None, "problems": None}
HEALTH_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Calls are admitted",
        "content": {
            "application/json": {
                "examples": {"operator": {"value": PROBLEMS_EXAMPLE}, "anyone": {"value": SUMMARY_EXAMPLE}}
            }
        },
    },
    503: {
        "description": "No call can be admitted",
        "model": HealthResponse,
        "content": {"application/json": {"example": SUMMARY_EXAMPLE | {"status": "unhealthy"}}},
    },
}
NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {
        "description": "No call can be admitted",
        "model": ReadyResponse,
        "content": {"application/json": {"example": {"status": "unavailable"}}},
    }
}


@router.head("/", include_in_schema=False)
@router.get("/", summary="Name and version")
async def get_welcome() -> WelcomeResponse:
    return WelcomeResponse(name="Tollkeeper", version=__version__, docs="/docs", health="/health", console="/console")


@router.head("/health", include_in_schema=False)
@router.get(
    "/health", summary="Health, and for operators why", responses=HEALTH_RESPONSES, openapi_extra=OPTIONAL_LOGIN
)
async def get_health(services: ServicesDep, response: Response, detailed: SeesReasons) -> HealthResponse:
    """200 while calls can be admitted, else 503. Operators see the problems, and so do bearers of
    TOLLKEEPER_METRICS_TOKEN.
    """
    problems = await _problems(services)
    state = worst(problems)
    if state is HealthState.UNHEALTHY:
        response.status_code = 503
    if not detailed:
        return HealthResponse(status=state)
    return HealthResponse(
        status=state,
        version=__version__,
        provider=services.gateway.catalog.default_provider.name,
        calls_in_flight=services.ledger.in_flight,
        problems=[_problem_response(problem) for problem in problems],
    )


@router.head("/health/ready", include_in_schema=False)
@router.get("/health/ready", summary="Readiness check", responses=NOT_READY)
async def get_readiness(services: ServicesDep, response: Response) -> ReadyResponse:
    """200 while calls can be admitted, else 503: for load balancers. 503, too, when the server is about to stop."""
    is_stopping = services.health.is_stopping()
    if not is_stopping and services.ledger.available and await services.database.is_ready():
        return ReadyResponse(status="ok")
    response.status_code = 503
    return ReadyResponse(status="unavailable")


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live", summary="Liveness check")
async def get_liveness() -> LiveResponse:
    """200 as long as the process responds."""
    return LiveResponse(status="ok")


async def _problems(services: Services) -> list[Problem]:
    reason = await services.database.readiness_problem()
    found = services.health.problems()
    return found if reason is None else [Problem("database", HealthState.UNHEALTHY, reason), *found]


def _problem_response(problem: Problem) -> ProblemResponse:
    return ProblemResponse(
        check=problem.check, status=problem.state, detail=problem.detail, since=iso(problem.since_ms)
    )
