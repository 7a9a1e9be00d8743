"""Errors, as the wire says them."""

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


def error_type(status: int) -> str:
    """The wire's name for what an HTTP status means."""
    return _BY_STATUS.get(status, "invalid_request_error" if 400 <= status < 500 else "api_error")


def error_body(error_type: str, message: str) -> bytes:
    """The body of an answer that is an error."""
    return orjson.dumps({"type": "error", "error": {"type": error_type, "message": message}})


def write_stream_error(code: str, message: str) -> bytes:
    """The event that says that a running stream broke; `code` is ours."""
    return event(error_body(_BY_CODE.get(code, "api_error"), message), name="error")
