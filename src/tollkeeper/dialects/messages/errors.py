"""Errors, as the wire says them."""

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
}


_DETAILS = {"thread": {"error_code": "thread_unsupported_request"}}
"""Anthropic's tool runner asks for a thread of its own accord, and goes on without one when it hears this."""


def error_type(status: int) -> str:
    """The wire's name for what an HTTP status means."""
    return _BY_STATUS.get(status, "invalid_request_error" if 400 <= status < 500 else "api_error")


def error_body(error_type: str, message: str, refused: str | None = None) -> bytes:
    """The body of an answer that is an error; `refused` is the parameter that was."""
    error: dict[str, Any] = {"type": error_type, "message": message}
    if refused in _DETAILS:
        error["details"] = _DETAILS[refused]
    return orjson.dumps({"type": "error", "error": error})


def write_stream_error(code: str, message: str) -> bytes:
    """The event that says that a running stream broke; `code` is ours."""
    return event(error_body(_BY_CODE.get(code, "api_error"), message), name="error")
