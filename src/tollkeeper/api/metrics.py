"""GET /metrics, for Prometheus: on a port of its own, with a token, or for this machine only."""

import hmac

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from tollkeeper.api.dependencies import Services, ServicesDep
from tollkeeper.errors import NotFound, Unauthenticated

router = APIRouter(tags=["operations"])

_FORWARDED = ("x-forwarded-for", "forwarded", "x-real-ip")


@router.get("/metrics", summary="Metrics for Prometheus", response_class=PlainTextResponse)
async def metrics(request: Request, services: ServicesDep) -> Response:
    """With TOLLKEEPER_METRICS_TOKEN: for bearers of that token. Without it: only on a server that listens on a loopback
    address, and not through a proxy. With TOLLKEEPER_METRICS_PORT they are on that port instead.
    """
    _check_access(request, services)
    return Response(generate_latest(services.metrics), media_type=CONTENT_TYPE_LATEST)


def _check_access(request: Request, services: Services) -> None:
    """Raises NotFound where there are no metrics on this port, Unauthenticated for a missing or wrong token."""
    settings = services.settings
    if settings.metrics_token is not None:
        scheme, _, sent = request.headers.get("authorization", "").partition(" ")
        expected = settings.metrics_token.get_secret_value().encode()
        if scheme.lower() != "bearer" or not hmac.compare_digest(sent.strip().encode(), expected):
            raise Unauthenticated("Send the value of TOLLKEEPER_METRICS_TOKEN as a bearer token.")
    elif settings.metrics_port is not None or not settings.serves_loopback_only:
        raise NotFound("Metrics are not served here: set TOLLKEEPER_METRICS_PORT or TOLLKEEPER_METRICS_TOKEN.")
    elif any(name in request.headers for name in _FORWARDED):
        raise NotFound(
            "Metrics are not served through a proxy: set TOLLKEEPER_METRICS_PORT or TOLLKEEPER_METRICS_TOKEN."
        )
