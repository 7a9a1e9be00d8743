"""Completes the OpenAPI document: the metered endpoints, from their declarations, and the errors of other routes."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tollkeeper.api.errors import MEDIA_TYPE
from tollkeeper.api.metered import EXTERNAL_TYPE, MeteredEndpoint
from tollkeeper.api.middleware import SDK_PREFIX

ERRORS = {
    "400": "The body is not valid JSON, or a parameter is not supported",
    "401": "There is no valid access token",
    "403": "The API key does not have the scope for this endpoint",
    "404": "There is no such model",
    "408": "The body did not arrive in time",
    "409": "A call with this Idempotency-Key is in flight or was interrupted, or the conversation has a call in flight",
    "413": "The body is too large",
    "422": "The request does not have the fields or types of this endpoint",
    "429": "A quota or a rate limit refuses the call; the body names it",
    "502": "The provider failed",
    "503": "The ledger is unavailable, or the provider limits this server's rate",
    "504": "The provider did not answer in time",
}
BODY_ERRORS = {status: ERRORS[status] for status in ("400", "408", "413", "422")} | {"429": "Too many requests"}
ACCESS_ERRORS = {status: ERRORS[status] for status in ("401", "403")}
DATABASE_ERRORS = {"503": "The database is unavailable"}
LOOKUP_ERRORS = {"404": "It does not exist, or the caller may not see it"}
UNUSED_SCHEMAS = ("HTTPValidationError", "ValidationError")
"""FastAPI's schemas of validation errors. No route returns them."""
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key and body: one provider call, one charge, and the same response for 24 hours.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[\\x21-\\x7e]+$"},
}
PROBLEM = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457 problem details with a stable `code`.",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "correlation_id": {"type": "string"},
    },
    "required": ["status", "detail", "code"],
}


def complete_document(document: dict[str, Any], endpoints: Sequence[MeteredEndpoint]) -> dict[str, Any]:
    """Add each metered endpoint as an operation, and to the other operations the errors that they return."""
    types = [
        kind
        for endpoint in endpoints
        for kind in (endpoint.request_type, endpoint.response_type)
        if kind is not EXTERNAL_TYPE
    ]
    _, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in UNUSED_SCHEMAS:
        schemas.pop(name, None)
    schemas.update(components)
    schemas["Problem"] = PROBLEM
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _add_errors(path, operation)
    for endpoint in endpoints:
        document["paths"][endpoint.path] = {"post": _operation(endpoint)}
    return document


def _add_errors(path: str, operation: dict[str, Any]) -> None:
    """Add to the errors that a route declares those that follow from its security, its body and its path."""
    responses = operation["responses"]
    errors = {status: response["description"] for status, response in responses.items() if status >= "400"}
    if "422" in errors:
        errors["422"] = ERRORS["422"]
    if "requestBody" in operation:
        errors |= BODY_ERRORS | DATABASE_ERRORS
    if "security" in operation:
        errors |= ACCESS_ERRORS | DATABASE_ERRORS
    if "{" in path:
        errors |= LOOKUP_ERRORS
    responses |= _error_responses(errors, external=path.startswith(SDK_PREFIX))


def _error_responses(errors: dict[str, str], *, external: bool) -> dict[str, Any]:
    content = _content(EXTERNAL_TYPE, "application/json") if external else _content("Problem", MEDIA_TYPE)
    return {status: {"description": description, "content": content} for status, description in errors.items()}


def _operation(endpoint: MeteredEndpoint) -> dict[str, Any]:
    content = _content(endpoint.response_type, "application/json")
    if endpoint.streams:
        content |= {"text/event-stream": {"schema": {"type": "string"}}}
    errors = _error_responses(ERRORS, external=endpoint.request_type is EXTERNAL_TYPE)
    return {
        "tags": ["ai"],
        "summary": endpoint.summary,
        "description": endpoint.description,
        "operationId": endpoint.path.strip("/").replace("/", "_"),
        "security": [{"OAuth2PasswordBearer": []}, {"APIKey": []}],
        "parameters": [IDEMPOTENCY_KEY],
        "requestBody": {"required": True, "content": _content(endpoint.request_type, "application/json")},
        "responses": {"200": {"description": "The answer", "content": content}} | errors,
    }


def _content(kind: Any, media_type: str) -> dict[str, Any]:
    if kind is EXTERNAL_TYPE:
        return {media_type: {"schema": {"type": "object"}}}
    name = kind if isinstance(kind, str) else kind.__name__
    return {media_type: {"schema": {"$ref": f"#/components/schemas/{name}"}}}
