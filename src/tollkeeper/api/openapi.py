"""Adds the metered doors to the OpenAPI document, from the same declarations that serve them."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tollkeeper.api.doors import Door
from tollkeeper.api.errors import MEDIA_TYPE

REFUSALS = {
    "400": "Not valid JSON, or an unsupported parameter",
    "401": "No valid bearer token",
    "413": "The body is too large",
    "422": "Not the shape this endpoint takes",
    "429": "A quota or a rate limit refuses; the body says which",
    "502": "The provider failed",
    "503": "The ledger is unavailable, or the provider is limiting us",
    "504": "The provider did not answer in time",
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
    shapes = [shape for door in doors for shape in (door.takes, door.gives)]
    _, components = msgspec.json.schema_components(shapes, ref_template="#/components/schemas/{name}")
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(components)
    schemas["Problem"] = PROBLEM
    for door in doors:
        document["paths"][door.path] = {"post": _operation(door)}
    return document


def _operation(door: Door) -> dict[str, Any]:
    responses = {"200": {"description": "The answer", "content": _json(door.gives.__name__, "application/json")}}
    for status, description in REFUSALS.items():
        responses[status] = {"description": description, "content": _json("Problem", MEDIA_TYPE)}
    return {
        "tags": ["ai"],
        "summary": door.summary,
        "description": door.description,
        "operationId": door.path.strip("/").replace("/", "_"),
        "security": [{"OAuth2PasswordBearer": []}],
        "requestBody": {"required": True, "content": _json(door.takes.__name__, "application/json")},
        "responses": responses,
    }


def _json(schema: str, media_type: str) -> dict[str, Any]:
    return {media_type: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
