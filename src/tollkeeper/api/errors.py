"""One table: domain error → HTTP status. Errors are RFC 9457 problems with a stable `code`."""

from datetime import UTC, datetime
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import orjson

from tollkeeper import errors
from tollkeeper.gateway import FailedCall
from tollkeeper.telemetry.logging import correlation_id

MEDIA_TYPE = "application/problem+json"

STATUS: dict[type[errors.TollkeeperError], int] = {
    errors.InvalidJson: 400,
    errors.InvalidRequest: 422,
    errors.UnsupportedParameter: 400,
    errors.BodyTooLarge: 413,
    errors.MethodNotAllowed: 405,
    errors.Unauthenticated: 401,
    errors.InvalidCredentials: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.QuotaExceeded: 429,
    errors.QuotaHeld: 429,
    errors.RateLimited: 429,
    errors.LedgerUnavailable: 503,
    errors.ShuttingDown: 503,
    errors.LedgerConflict: 409,
    errors.ProviderUnavailable: 502,
    errors.ProviderAuthFailed: 502,
    errors.ProviderRateLimited: 503,
    errors.ProviderRejected: 400,
    errors.ProviderFailed: 502,
    errors.ProviderInterrupted: 502,
    errors.ProviderBadResponse: 502,
    errors.ProviderTimeout: 504,
}
"""A class that is not here has the status of its nearest base that is, else 500."""

DEFAULT_RETRY_AFTER_S = 1
"""Where a wait helps and nobody said how long."""


def status_of(error: errors.TollkeeperError) -> int:
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def problem(error: errors.TollkeeperError) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers for an error."""
    if isinstance(error, FailedCall):
        error = error.cause
    status = status_of(error)
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": error.detail,
        "code": error.code,
        "correlation_id": correlation_id.get(),
    }
    headers: dict[str, str] = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.MethodNotAllowed):
        headers["Allow"] = error.allow
    if isinstance(error, errors.QuotaRefusal):
        body |= _quota_fields(error)
        headers |= _quota_headers(error)
    if (seconds := _retry_after_s(error, status)) is not None:
        headers["Retry-After"] = str(seconds)
    return status, body, headers


def render(error: errors.TollkeeperError) -> tuple[int, bytes, dict[str, str]]:
    """Status, body as bytes and headers, ready to be sent."""
    status, body, headers = problem(error)
    return status, orjson.dumps(body), headers | {"Content-Type": MEDIA_TYPE}


@lru_cache(maxsize=1_000)
def iso(epoch_ms: int | None) -> str | None:
    """ISO 8601 in UTC; None for a moment that never comes."""
    if epoch_ms is None:
        return None
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).isoformat().replace("+00:00", "Z")


def _quota_fields(error: errors.QuotaRefusal) -> dict[str, Any]:
    return {
        "quota": error.quota,
        "limit": error.limit,
        "used": error.used,
        "reserved": error.reserved,
        "needed": error.needed,
        "resets_at": iso(error.resets_ms),
    }


def _quota_headers(error: errors.QuotaRefusal) -> dict[str, str]:
    return quota_headers(error.quota, error.limit, max(0, error.limit - error.used - error.reserved), error.resets_ms)


def quota_headers(name: str, limit: int, remaining: int, resets_ms: int | None) -> dict[str, str]:
    """The headers that say how one quota stands."""
    headers = {"X-Quota-Name": name, "X-Quota-Limit": str(limit), "X-Quota-Remaining": str(remaining)}
    if resets_at := iso(resets_ms):
        headers["X-Quota-Reset"] = resets_at
    return headers


def _retry_after_s(error: errors.TollkeeperError, status: int) -> int | None:
    said = getattr(error, "retry_after_s", None)
    if said is None and status == 503:
        return DEFAULT_RETRY_AFTER_S
    return said
