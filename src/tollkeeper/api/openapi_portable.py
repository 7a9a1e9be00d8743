"""The OpenAPI document in the form that generators of clients understand, with the same meaning."""

from typing import Any

_TYPES = {str: "string", bool: "boolean", int: "integer"}


def portable(document: dict[str, Any]) -> dict[str, Any]:
    """The document with patterns that mean the same in Python and in JSON Schema, a type for each `enum`, and a named
    schema for each body of a request.
    """
    result: dict[str, Any] = _portable(document)
    schemas = result["components"]["schemas"]
    for operations in result["paths"].values():
        for operation in operations.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                _name_schema(content, schemas)
    return result


def _name_schema(content: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Move the schema of a body, and those that it defines, to the named ones. Two with one name would have to be the
    same.
    """
    if (name := content["schema"].get("title")) is not None:
        for each, schema in {**content["schema"].pop("$defs", {}), name: content["schema"]}.items():
            assert schemas.setdefault(each, schema) == schema, each
        content["schema"] = {"$ref": f"#/components/schemas/{name}"}


def _portable(node: Any) -> Any:
    """A part of the document. In JSON Schema, `\\Z` is no end of the text, and `\\S` includes some characters that are
    white space in Python.
    """
    if isinstance(node, list):
        return [_portable(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    result = {name: _portable(inner) for name, inner in node.items()}
    if isinstance(pattern := result.get("pattern"), str):
        result["pattern"] = pattern.replace(r"\Z", "$").replace(r"\S", r"[^\s\x1c-\x1f\x85]")
    if isinstance(values := result.get("enum"), list):
        result |= _typed(values)
        if len(values) == 1 and isinstance(values[0], bool):
            result["const"] = result.pop("enum")[0]  # some generators know no enumeration of booleans
    return result


def _typed(values: list[Any]) -> dict[str, str]:
    """The type of an enumeration's values, if they have one type."""
    kinds = {_TYPES.get(type(value)) for value in values}
    kind = kinds.pop()
    return {} if kinds or kind is None else {"type": kind}
