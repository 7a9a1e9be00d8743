"""Errors as HTTP responses: one table from domain error to status, and RFC 9457 problems with a stable `code`."""

import random
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import orjson

from tollkeeper import errors
from tollkeeper.api.formats import iso, quota_headers
from tollkeeper.gateway.results import CallFailed
from tollkeeper.telemetry.correlation import correlation_id

MEDIA_TYPE = "application/problem+json"

RenderedError = tuple[int, bytes, dict[str, str]]
"""Status, body and headers of a response."""
RenderError = Callable[[errors.TollkeeperError], RenderedError]
"""Renders an error in the format of one API."""

STATUS: dict[type[errors.TollkeeperError], int] = {
    errors.InvalidJson: 400,
    errors.InvalidRequest: 422,
    errors.UnsupportedParameter: 400,
    errors.BodyTooLarge: 413,
    errors.BodyTooSlow: 408,
    errors.UnsupportedMediaType: 415,
    errors.MethodNotAllowed: 405,
    errors.TurnInProgress: 409,
    errors.Unauthenticated: 401,
    errors.InvalidCredentials: 401,
    errors.SignOnRefused: 401,
    errors.TotpRequired: 401,
    errors.TotpEnrolmentRequired: 403,
    errors.InvalidLink: 400,
    errors.Forbidden: 403,
    errors.StepUpRequired: 403,
    errors.TagRefused: 400,
    errors.NotFound: 404,
    errors.OutboundRefused: 422,
    errors.OutboundFailed: 502,
    errors.PreconditionFailed: 412,
    errors.QuotaExceeded: 429,
    errors.QuotaHeld: 429,
    errors.RateLimited: 429,
    errors.Overloaded: 503,
    errors.DatabaseUnavailable: 503,
    errors.LedgerUnavailable: 503,
    errors.LedgerBusy: 503,
    errors.ShuttingDown: 503,
    errors.LeaseLost: 503,
    errors.LedgerConflict: 409,
    errors.IdempotencyInFlight: 409,
    errors.IdempotencyMismatch: 422,
    errors.PreviousAttemptInterrupted: 409,
    errors.TooManyJobs: 429,
    errors.ContentBlocked: 400,
    errors.ModerationUnavailable: 503,
    errors.JobInterrupted: 500,
    errors.JobExpired: 504,
    errors.DocumentsOff: 404,
    errors.DocumentUnreadable: 422,
    errors.DocumentQuotaExceeded: 413,
    errors.DocumentExpired: 504,
    errors.FileTooLarge: 413,
    errors.LineTooLong: 413,
    errors.StorageFull: 403,
    errors.FileMissing: 404,
    errors.FileInUse: 409,
    errors.TooManyBatches: 429,
    errors.BatchNotEnded: 409,
    errors.LineExpired: 504,
    errors.LineCancelled: 409,
    errors.ProviderUnavailable: 502,
    errors.ProviderAuthFailed: 502,
    errors.ProviderRateLimited: 503,
    errors.ProviderRejected: 400,
    errors.RequestTooLarge: 413,
    errors.ProviderLacksModel: 502,
    errors.ProviderFailed: 502,
    errors.ProviderInterrupted: 502,
    errors.ProviderBadResponse: 502,
    errors.ProviderTimeout: 504,
}
"""A class that is not listed has the status of its nearest listed base class, or 500."""

UNITS = {"tokens": "tokens", "micro_usd": "micro-USD", "requests": "requests", "concurrency": "calls in flight"}
"""The units of quotas in messages."""

QUOTA_REQUESTS_PATH = "/me/quota/requests"
MAX_SPREAD_S = 60
SDK_WAITS_S = (errors.SDK_WAIT_S, 2 * errors.SDK_WAIT_S)
"""Newer and older SDKs wait as long as `Retry-After` says up to so many seconds, and else do not wait so long, or give
up.
"""
DEFAULT_RETRY_AFTER_S = 1
"""`Retry-After` of a 503 whose error sets none."""


def status_of(error: errors.TollkeeperError) -> int:
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def problem_details(error: errors.TollkeeperError) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, problem (RFC 9457) and headers for an error."""
    error = cause_of(error)
    status = status_of(error)
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": message_of(error),
        "code": error.code,
        "correlation_id": correlation_id.get(),
    }
    if isinstance(error, errors.QuotaRefusal):
        body |= _quota_fields(error)
    return status, body, headers_of(error, status)


def cause_of(error: errors.TollkeeperError) -> errors.TollkeeperError:
    """The error that responses describe: the cause of a CallFailed, else the error itself."""
    return error.cause if isinstance(error, CallFailed) else error


def message_of(error: errors.TollkeeperError) -> str:
    """The message for people; a refusal by a quota includes its figures. Pass the `cause_of` a CallFailed."""
    if not isinstance(error, errors.QuotaRefusal):
        return error.detail
    unit = UNITS.get(error.unit, error.unit)
    needs = f"call needs {error.needed:,} {unit}, with room for its answer"
    if error.detail != error.sentence:  # there is no quota or no price, so the balance has no meaning
        return f"{error.detail} The {needs}." if error.needed else error.detail
    if error.never_fits:
        return (
            f"This call can never fit: it needs {error.needed:,} {unit} and the limit is {error.limit:,}."
            " Lower max_tokens. If that is not enough, shorten the prompt."
        )
    sentence = error.sentence.removesuffix(".")
    if error.unit == "concurrency":
        return f"{sentence}: {error.reserved:,} of the {error.limit:,} calls that {error.quota} admits are in flight."
    balance = (
        f"{error.used:,} of {error.limit:,} in {error.quota} are used and {error.reserved:,} held by calls in flight"
    )
    resets_at = iso(error.resets_ms)
    resets = "never resets" if resets_at is None else f"resets at {resets_at}"
    if error.unit == "requests":
        return f"{sentence}: {balance}; the quota {resets}."
    return f"{sentence}: the {needs}, and {balance}; the quota {resets}.{_way_to_more(error)}"


def _way_to_more(error: errors.QuotaRefusal) -> str:
    """How a user asks for more of a token quota of their own."""
    is_own = error.unit == "tokens" and error.quota.startswith("user-")
    is_spent = isinstance(error, errors.QuotaExceeded)
    return f" Ask an administrator for more: POST {QUOTA_REQUESTS_PATH}." if is_own and is_spent else ""


def headers_of(error: errors.TollkeeperError, status: int) -> dict[str, str]:
    """The headers of an error response, the same in every API's format."""
    headers: dict[str, str] = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.BodyTooSlow):
        headers["Connection"] = "close"  # the rest of the body must not be parsed as the next request
    if isinstance(error, errors.MethodNotAllowed):
        headers["Allow"] = error.allow
    if isinstance(error, errors.QuotaRefusal):
        headers |= _quota_headers(error)
    if (seconds := _retry_after_s(error, status)) is not None:
        headers["Retry-After"] = str(seconds)
    return headers


def render_problem(error: errors.TollkeeperError) -> RenderedError:
    """Render an error as a problem (RFC 9457). This is the format of all endpoints but `/v1/*`."""
    status, body, headers = problem_details(error)
    return status, orjson.dumps(body), headers | {"Content-Type": MEDIA_TYPE}


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


def _retry_after_s(error: errors.TollkeeperError, status: int) -> int | None:
    if isinstance(error, errors.QuotaRefusal) and error.never_fits:
        return None
    seconds: int | None = getattr(error, "retry_after_s", None)
    if seconds is None and status == 503:
        return DEFAULT_RETRY_AFTER_S
    if seconds is not None and isinstance(error, errors.QuotaExceeded | errors.RateLimited):
        return _spread(seconds)
    return seconds


def _spread(seconds: int) -> int:
    """A time a little later, at random: else all clients of a limit come back in the moment in which it resets."""
    latest = seconds + min(MAX_SPREAD_S, max(1, seconds // 10))
    for longest in SDK_WAITS_S:
        if seconds <= longest:
            latest = min(latest, longest)
    return random.randint(seconds, latest)
