"""The operations of a running server, as its OpenAPI document describes them."""

from typing import Any, NamedTuple

from journeys.support.users import ApiUser

JSON = "application/json"


class Operation(NamedTuple):
    """One route with one method. `example` is a body that the document gives; None for an operation without one."""

    method: str
    path: str
    example: Any
    body_fields: frozenset[str]
    query_fields: frozenset[str]

    @property
    def has_path_parameter(self) -> bool:
        return "{" in self.path

    @property
    def is_native(self) -> bool:
        """Whether it is of this server's own API, not of another one's wire format."""
        return not self.path.startswith("/v1/")

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


async def operations_of(caller: ApiUser) -> list[Operation]:
    """All operations; those that delete are the last."""
    document = (await caller.get("/openapi.json")).body
    found = [
        _operation(document, method.upper(), path, described)
        for path, methods in document["paths"].items()
        for method, described in methods.items()
    ]
    return sorted(found, key=lambda one: (one.method == "DELETE", one.path, one.method))


def _operation(document: dict[str, Any], method: str, path: str, described: dict[str, Any]) -> Operation:
    content = described.get("requestBody", {}).get("content", {}).get(JSON, {})
    examples = [one["value"] for one in content.get("examples", {}).values()]
    schema = content.get("schema", {})
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]]
    queries = [one["name"] for one in described.get("parameters", []) if one["in"] == "query"]
    return Operation(
        method,
        path,
        content.get("example", examples[0] if examples else None),
        frozenset(schema.get("properties", {})),
        frozenset(queries),
    )
