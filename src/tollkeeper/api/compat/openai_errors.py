"""What went wrong, as OpenAI's API says it: `{"error": {message, type, param, code}}`, invalid input as 400."""

from typing import Any

import orjson

from tollkeeper import errors
from tollkeeper.api.errors import Rendered, cause_of, headers_of, sentence_of, status_of

CODES: dict[type[errors.TollkeeperError], tuple[str, str | None]] = {
    errors.UnsupportedParameter: ("invalid_request_error", "unsupported_parameter"),
    errors.InputError: ("invalid_request_error", None),
    errors.Unauthenticated: ("invalid_request_error", "invalid_api_key"),
    errors.ModelNotFound: ("invalid_request_error", "model_not_found"),
    errors.AccessError: ("invalid_request_error", None),
    errors.QuotaExceeded: ("insufficient_quota", "insufficient_quota"),
    errors.Refusal: ("requests", "rate_limit_exceeded"),
    errors.ProviderRejected: ("invalid_request_error", None),
    errors.IdempotencyError: ("invalid_request_error", None),
}
"""Type and code; of the nearest base that is here, else `server_error`."""


def render(error: errors.TollkeeperError) -> Rendered:
    """Status, body and headers. Our own code is in X-Error-Code."""
    cause = cause_of(error)
    status = 400 if isinstance(cause, errors.InvalidRequest) else status_of(cause)
    headers = headers_of(cause, status) | {"Content-Type": "application/json", "X-Error-Code": cause.code}
    if is_final(cause):
        headers["x-should-retry"] = "false"
    return status, orjson.dumps({"error": told(cause)}), headers


def told(error: errors.TollkeeperError) -> dict[str, Any]:
    """The error object."""
    kinds = [CODES[kind] for kind in type(error).__mro__ if kind in CODES]
    kind, code = kinds[0] if kinds else ("server_error", error.code)
    parameter = error.parameter if isinstance(error, errors.InputError) else None
    return {"message": sentence_of(error), "type": kind, "param": parameter, "code": code}


def is_final(error: errors.TollkeeperError) -> bool:
    """Whether trying the same again helps nobody: it cannot fit or be answered, or what it cost is not known."""
    if isinstance(error, errors.ProviderLacksModel | errors.ProviderAuthFailed):
        return True
    if isinstance(error, errors.ProviderError):
        return error.billed
    if isinstance(error, errors.ShuttingDown | errors.LeaseLost):
        return True
    return isinstance(error, errors.QuotaExceeded | errors.IdempotencyMismatch | errors.PreviousAttemptInterrupted)
