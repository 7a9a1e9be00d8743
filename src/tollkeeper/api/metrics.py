"""GET /metrics, for Prometheus: on a port of its own, with a token, or for this machine only."""

import asyncio

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from tollkeeper.api.dependencies import Services, ServicesDep
from tollkeeper.api.onlookers import has_metrics_token
from tollkeeper.errors import NotFound, Unauthenticated

router = APIRouter(tags=["operations"])

_FORWARDED = ("x-forwarded-for", "forwarded", "x-real-ip")


class PrometheusText(Response):
    """The text format of Prometheus, whose media type names its version."""

    media_type = CONTENT_TYPE_LATEST


@router.get("/metrics", summary="Metrics for Prometheus", response_class=PrometheusText)
async def get_metrics(request: Request, services: ServicesDep) -> Response:
    """With TOLLKEEPER_METRICS_TOKEN: for bearers of that token. Without it: only on a server that listens on a loopback
    address, and not through a proxy. With TOLLKEEPER_METRICS_PORT they are on that port instead.
    """
    _check_access(request, services)
    text = await asyncio.to_thread(generate_latest, services.metrics)  # the other workers are asked, too
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def _check_access(request: Request, services: Services) -> None:
    """Raises NotFound where there are no metrics on this port, Unauthenticated for a missing or wrong token."""
    settings = services.settings
    if settings.metrics_token is not None:
        if not has_metrics_token(request, settings):
            raise Unauthenticated("Send the value of TOLLKEEPER_METRICS_TOKEN as a bearer token.")
    elif settings.metrics_port is not None:
        raise NotFound("Metrics are not served here, but on the port of TOLLKEEPER_METRICS_PORT.")
    elif not settings.serves_loopback_only:
        raise NotFound("Metrics are not served here: set TOLLKEEPER_METRICS_PORT or TOLLKEEPER_METRICS_TOKEN.")
    elif any(name in request.headers for name in _FORWARDED):
        raise NotFound(
            "Metrics are not served through a proxy: set TOLLKEEPER_METRICS_PORT or TOLLKEEPER_METRICS_TOKEN."
        )
