"""Errors of OAuth2 forms: the members of RFC 6749, 5.2, beside those of a problem, for clients that read only them."""

import re

import orjson
from starlette.types import Scope

from tollkeeper.api.errors import MEDIA_TYPE, RenderedError, problem_details
from tollkeeper.api.forms import FORM
from tollkeeper.errors import TollkeeperError

PATHS = frozenset({"/auth/login", "/auth/refresh"})
"""What takes the OAuth2 forms."""
_NOT_ALLOWED = re.compile(r"[^\x20-\x21\x23-\x5b\x5d-\x7e]")
"""What an `error_description` may not have."""


def is_oauth_request(scope: Scope) -> bool:
    """Whether a request sends an OAuth2 form."""
    if scope["path"] not in PATHS:
        return False
    values = [value for name, value in scope["headers"] if name == b"content-type"]
    return any(value.partition(b";")[0].strip().lower() == FORM.encode() for value in values)


def render_oauth_error(error: TollkeeperError) -> RenderedError:
    """A problem with `error` and `error_description`. The status is the same as of the JSON form."""
    status, body, headers = problem_details(error)
    body |= {"error": _error_of(status), "error_description": _NOT_ALLOWED.sub("'", body["detail"])}
    return status, orjson.dumps(body), headers | {"Content-Type": MEDIA_TYPE}


def _error_of(status: int) -> str:
    """The code. RFC 6749 has none for too many requests and for failures of the server: these are those of 4.1.2.1."""
    if status == 401:
        return "invalid_grant"
    if status in (429, 503):
        return "temporarily_unavailable"
    return "invalid_request" if status < 500 else "server_error"
