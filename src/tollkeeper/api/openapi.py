"""Adds the metered doors to the OpenAPI document, from the same declarations that serve them."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tollkeeper.api.doors import OF_OTHERS, Door
from tollkeeper.api.errors import MEDIA_TYPE

REFUSALS = {
    "400": "Not valid JSON, or an unsupported parameter",
    "401": "No valid bearer token",
    "403": "The API key does not open this",
    "413": "The body is too large",
    "422": "Not the shape this endpoint takes",
    "429": "A quota or a rate limit refuses; the body says which",
    "502": "The provider failed",
    "503": "The ledger is unavailable, or the provider is limiting us",
    "504": "The provider did not answer in time",
}
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


def describe(document: dict[str, Any], doors: Sequence[Door]) -> dict[str, Any]:
    """The document with each door as an operation."""
    shapes = [shape for door in doors for shape in (door.takes, door.gives) if shape is not OF_OTHERS]
    _, components = msgspec.json.schema_components(shapes, ref_template="#/components/schemas/{name}")
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(components)
    schemas["Problem"] = PROBLEM
    for door in doors:
        document["paths"][door.path] = {"post": _operation(door)}
    return document


def _operation(door: Door) -> dict[str, Any]:
    content = _json(door.gives, "application/json")
    if door.streams:
        content |= {"text/event-stream": {"schema": {"type": "string"}}}
    responses = {"200": {"description": "The answer", "content": content}}
    for status, description in REFUSALS.items():
        content = _json(OF_OTHERS, "application/json") if door.takes is OF_OTHERS else _json("Problem", MEDIA_TYPE)
        responses[status] = {"description": description, "content": content}
    return {
        "tags": ["ai"],
        "summary": door.summary,
        "description": door.description,
        "operationId": door.path.strip("/").replace("/", "_"),
        "security": [{"OAuth2PasswordBearer": []}, {"APIKey": []}],
        "parameters": [IDEMPOTENCY_KEY],
        "requestBody": {"required": True, "content": _json(door.takes, "application/json")},
        "responses": responses,
    }


def _json(shape: Any, media_type: str) -> dict[str, Any]:
    if shape is OF_OTHERS:
        return {media_type: {"schema": {"type": "object"}}}
    name = shape if isinstance(shape, str) else shape.__name__
    return {media_type: {"schema": {"$ref": f"#/components/schemas/{name}"}}}
