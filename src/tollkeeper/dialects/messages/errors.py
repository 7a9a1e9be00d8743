"""Writes errors."""

from typing import Any

import orjson

from tollkeeper.dialects.sse import event

_BY_STATUS = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_BY_CODE = {
    "provider_timeout": "timeout_error",
    "provider_rate_limited": "overloaded_error",
    "ledger_unavailable": "overloaded_error",
    "shutting_down": "overloaded_error",
    "provider_rejected": "invalid_request_error",
    "context_length_exceeded": "invalid_request_error",
    "content_filter": "invalid_request_error",
    "request_too_large": "request_too_large",
}
_DETAILS = {"thread": {"error_code": "thread_unsupported_request"}}
"""Details by refused parameter. With these, Anthropic's tool runner continues without the thread that it requests."""


def error_type(status: int) -> str:
    """The error type for an HTTP status."""
    return _BY_STATUS.get(status, "invalid_request_error" if 400 <= status < 500 else "api_error")


def write_error(error_type: str, message: str, refused: str | None = None) -> bytes:
    """The body of an error response. `refused` is the parameter that is not supported."""
    error: dict[str, Any] = {"type": error_type, "message": message}
    if refused in _DETAILS:
        error["details"] = _DETAILS[refused]
    return orjson.dumps({"type": "error", "error": error})


def write_stream_error(code: str, message: str) -> bytes:
    """The event for a stream that fails after its first chunk. `code` is our error code."""
    return event(write_error(_BY_CODE.get(code, "api_error"), message), name="error")
