"""Health checks, and the root path with the version."""

from typing import Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from tollkeeper import __version__
from tollkeeper.api.dependencies import ServicesDep

router = APIRouter(tags=["operations"])


class WelcomeResponse(BaseModel):
    """The name and version of the server, and where its documentation and health check are."""

    name: str
    version: str
    docs: str
    health: str


class HealthResponse(BaseModel):
    """`unavailable`: no call can be admitted."""

    status: Literal["ok", "unavailable"]
    version: str
    provider: str
    ledger: Literal["ok", "unavailable"]
    calls_in_flight: int


NOT_READY: dict[int | str, dict[str, Any]] = {503: {"description": "No call can be admitted", "model": HealthResponse}}


@router.head("/", include_in_schema=False)
@router.get("/", summary="Name and version")
async def welcome() -> WelcomeResponse:
    return WelcomeResponse(name="Tollkeeper", version=__version__, docs="/docs", health="/health")


@router.head("/health", include_in_schema=False)
@router.head("/health/ready", include_in_schema=False)
@router.get("/health", summary="Readiness check", responses=NOT_READY)
@router.get("/health/ready", summary="Readiness check", responses=NOT_READY)
async def health(services: ServicesDep, response: Response) -> HealthResponse:
    """200 while calls can be admitted, else 503."""
    ready = services.ledger.available and await services.database.is_ready()
    if not ready:
        response.status_code = 503
    return HealthResponse(
        status="ok" if ready else "unavailable",
        version=__version__,
        provider=services.gateway.catalog.default_provider.name,
        ledger="ok" if ready else "unavailable",
        calls_in_flight=services.ledger.in_flight,
    )


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live", summary="Liveness check")
async def live() -> dict[str, str]:
    """200 as long as the process responds."""
    return {"status": "ok"}
