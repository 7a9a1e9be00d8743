"""Errors in the format of OpenAI's API: `{"error": {message, type, param, code}}`."""

from typing import Any

import orjson

from tollkeeper import errors
from tollkeeper.api.compat.sdk_errors import status_and_headers
from tollkeeper.api.errors import RenderedError, cause_of, message_of

RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
TYPES_AND_CODES: dict[type[errors.TollkeeperError], tuple[str, str | None]] = {
    errors.UnsupportedParameter: ("invalid_request_error", "unsupported_parameter"),
    errors.InputError: ("invalid_request_error", None),
    errors.Unauthenticated: ("invalid_request_error", "invalid_api_key"),
    errors.ModelNotFound: ("invalid_request_error", "model_not_found"),
    errors.AccessError: ("invalid_request_error", None),
    errors.QuotaExceeded: ("insufficient_quota", "insufficient_quota"),
    errors.Refusal: ("requests", RATE_LIMIT_EXCEEDED),
    errors.ContextOverflow: ("invalid_request_error", "context_length_exceeded"),
    errors.ContentFiltered: ("invalid_request_error", "content_filter"),
    errors.RequestTooLarge: ("invalid_request_error", "request_too_large"),
    errors.ProviderRejected: ("invalid_request_error", None),
    errors.ContentBlocked: ("invalid_request_error", errors.ContentBlocked.code),
    errors.IdempotencyError: ("invalid_request_error", None),
}
"""A class that is not listed has those of its nearest listed base class, or `server_error` and our own code."""

WRONG_KEY = "Incorrect API key provided."
"""The words by which clients (LiteLLM and what is built on it) recognize OpenAI's error for a wrong key."""


def render(error: errors.TollkeeperError) -> RenderedError:
    cause = cause_of(error)
    status, headers = status_and_headers(cause)
    return status, orjson.dumps({"error": error_object(cause)}), headers


def error_object(error: errors.TollkeeperError) -> dict[str, Any]:
    error_type, code = _type_and_code(error)
    parameter = error.parameter if isinstance(error, errors.InputError | errors.ProviderRejected) else None
    message = message_of(error)
    if isinstance(error, errors.Unauthenticated):
        message = f"{WRONG_KEY} {message}"
    return {"message": message, "type": error_type, "param": parameter, "code": code}


def _type_and_code(error: errors.TollkeeperError) -> tuple[str, str | None]:
    """A quota whose next window is near is a limit on a rate for clients: they wait for it, and call again."""
    if isinstance(error, errors.QuotaExceeded) and error.passes_soon:
        return "tokens" if error.unit == "tokens" else "requests", RATE_LIMIT_EXCEEDED
    known = [TYPES_AND_CODES[kind] for kind in type(error).__mro__ if kind in TYPES_AND_CODES]
    return known[0] if known else ("server_error", error.code)
