"""Adds to the OpenAPI document the metered doors, from the declarations that serve them, and what routes refuse."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tollkeeper.api.errors import MEDIA_TYPE
from tollkeeper.api.metered import OF_OTHERS, MeteredEndpoint
from tollkeeper.api.middleware import FOR_SDKS

REFUSALS = {
    "400": "Not valid JSON, or an unsupported parameter",
    "401": "No valid bearer token",
    "403": "The API key does not open this",
    "404": "There is no such model",
    "408": "The body did not arrive in time",
    "409": "A call with this Idempotency-Key is in flight or was interrupted, or a turn of this conversation runs",
    "413": "The body is too large",
    "422": "Not the shape this endpoint takes",
    "429": "A quota or a rate limit refuses; the body says which",
    "502": "The provider failed",
    "503": "The ledger is unavailable, or the provider is limiting us",
    "504": "The provider did not answer in time",
}
WITH_A_BODY = {status: REFUSALS[status] for status in ("400", "408", "413", "422")} | {"429": "Too many, too fast"}
SIGNED_IN = {status: REFUSALS[status] for status in ("401", "403")}
UNAVAILABLE = {"503": "The database is unavailable"}
MISSING = {"404": "There is no such thing that is the caller's to see"}
OF_THE_FRAMEWORK = ("HTTPValidationError", "ValidationError")
"""Schemas of what no route answers."""
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key and body: one provider call, one charge, the same answer for 24 hours.",
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


def describe(document: dict[str, Any], doors: Sequence[MeteredEndpoint]) -> dict[str, Any]:
    """The document with each door as an operation, and with what the other operations refuse."""
    shapes = [shape for door in doors for shape in (door.takes, door.gives) if shape is not OF_OTHERS]
    _, components = msgspec.json.schema_components(shapes, ref_template="#/components/schemas/{name}")
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in OF_THE_FRAMEWORK:
        schemas.pop(name, None)
    schemas.update(components)
    schemas["Problem"] = PROBLEM
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _add_refusals(path, operation)
    for door in doors:
        document["paths"][door.path] = {"post": _operation(door)}
    return document


def _add_refusals(path: str, operation: dict[str, Any]) -> None:
    """To what a route declares to refuse, what follows from its security, its body and its path."""
    responses = operation["responses"]
    told = {status: response["description"] for status, response in responses.items() if status >= "400"}
    if "422" in told:
        told["422"] = REFUSALS["422"]
    if "requestBody" in operation:
        told |= WITH_A_BODY | UNAVAILABLE
    if "security" in operation:
        told |= SIGNED_IN | UNAVAILABLE
    if "{" in path:
        told |= MISSING
    responses |= _refusals(told, of_others=path.startswith(FOR_SDKS))


def _refusals(told: dict[str, str], *, of_others: bool) -> dict[str, Any]:
    content = _json(OF_OTHERS, "application/json") if of_others else _json("Problem", MEDIA_TYPE)
    return {status: {"description": description, "content": content} for status, description in told.items()}


def _operation(door: MeteredEndpoint) -> dict[str, Any]:
    content = _json(door.gives, "application/json")
    if door.streams:
        content |= {"text/event-stream": {"schema": {"type": "string"}}}
    refusals = _refusals(REFUSALS, of_others=door.takes is OF_OTHERS)
    return {
        "tags": ["ai"],
        "summary": door.summary,
        "description": door.description,
        "operationId": door.path.strip("/").replace("/", "_"),
        "security": [{"OAuth2PasswordBearer": []}, {"APIKey": []}],
        "parameters": [IDEMPOTENCY_KEY],
        "requestBody": {"required": True, "content": _json(door.takes, "application/json")},
        "responses": {"200": {"description": "The answer", "content": content}} | refusals,
    }


def _json(shape: Any, media_type: str) -> dict[str, Any]:
    if shape is OF_OTHERS:
        return {media_type: {"schema": {"type": "object"}}}
    name = shape if isinstance(shape, str) else shape.__name__
    return {media_type: {"schema": {"$ref": f"#/components/schemas/{name}"}}}
