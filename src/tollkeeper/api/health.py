"""Is it up, and what is it."""

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from tollkeeper import __version__
from tollkeeper.api.dependencies import Parts, Services
from tollkeeper.errors import TollkeeperError

router = APIRouter(tags=["operations"])


class Welcome(BaseModel):
    """The front door."""

    name: str
    version: str
    docs: str
    health: str


class Health(BaseModel):
    """`unavailable` while no call can be admitted."""

    status: Literal["ok", "unavailable"]
    version: str
    provider: str
    ledger: Literal["ok", "unavailable"]
    calls_in_flight: int


@router.head("/", include_in_schema=False)
@router.get("/", summary="The front door")
async def welcome() -> Welcome:
    return Welcome(name="Tollkeeper", version=__version__, docs="/docs", health="/health")


@router.head("/health", include_in_schema=False)
@router.head("/health/ready", include_in_schema=False)
@router.get("/health", summary="Can it serve")
@router.get("/health/ready", summary="Can it serve")
async def health(parts: Parts, response: Response) -> Health:
    """200 while calls can be admitted, 503 while they cannot."""
    ready = parts.ledger.available and await _database_answers(parts)
    if not ready:
        response.status_code = 503
    return Health(
        status="ok" if ready else "unavailable",
        version=__version__,
        provider=parts.gateway.catalog.provider.name,
        ledger="ok" if ready else "unavailable",
        calls_in_flight=parts.ledger.in_flight,
    )


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live", summary="Is it alive")
async def live() -> dict[str, str]:
    """200 as long as the process answers."""
    return {"status": "ok"}


async def _database_answers(parts: Services) -> bool:
    try:
        await parts.database.require_current_schema()
    except TollkeeperError:
        return False
    return True
