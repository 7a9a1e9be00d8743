"""The smallest value of a JSON Schema: it is valid, and finding it takes limited time."""

import json
import time
from typing import Any

import jsonschema_rs
import pytest

from tollkeeper.errors import InvalidRequest
from tollkeeper.providers.smallest_instance import smallest_instance

STRING, INTEGER = {"type": "string"}, {"type": "integer"}
LINKED_LIST = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"value": INTEGER, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["value", "next"],
        }
    },
    "$ref": "#/$defs/node",
}
VALUES: list[tuple[dict[str, Any], Any]] = [
    ({}, {}),
    ({"type": "object", "properties": {"city": STRING, "day": INTEGER}, "required": ["day"]}, {"day": 0}),
    ({"properties": {"a": STRING}, "required": ["a", "b"]}, {"a": "", "b": {}}),
    ({"properties": {"a": STRING, "b": STRING}, "minProperties": 1}, {"a": ""}),
    ({"type": "object", "minProperties": 2}, {"field_0": {}, "field_1": {}}),
    ({"type": "object", "required": ["field_1"], "minProperties": 2}, {"field_1": {}, "field_2": {}}),
    ({"type": "object", "additionalProperties": INTEGER, "required": ["x"]}, {"x": 0}),
    (STRING, ""),
    ({"type": "string", "minLength": 3}, "xxx"),
    ({"type": "string", "format": "date"}, "2000-01-01"),
    ({"type": "string", "format": "uuid", "pattern": "(?!x)"}, "00000000-0000-0000-0000-000000000000"),
    ({"type": "string", "pattern": r"^[A-Z]{2}-\d{3,5}$"}, "AA-000"),
    ({"pattern": "b+"}, "b"),
    ({"type": ["string", "null"]}, ""),
    ({"type": "boolean"}, False),
    ({"type": "null"}, None),
    ({"enum": ["celsius", "fahrenheit"]}, "celsius"),
    ({"type": "string", "enum": [1, "one"]}, "one"),
    ({"const": {"a": [1]}}, {"a": [1]}),
    ({"type": "integer", "minimum": 5, "multipleOf": 7}, 7),
    ({"type": "integer", "exclusiveMinimum": 3}, 4),
    ({"type": "integer", "maximum": -3}, -3),
    ({"type": "integer", "minimum": 2.5}, 3),
    ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, 0.5),
    ({"type": "number", "minimum": 0.25, "multipleOf": 0.5}, 0.5),
    ({"type": "number", "maximum": -1.5}, -1.5),
    ({"type": "array", "items": STRING}, []),
    ({"type": "array", "items": INTEGER, "minItems": 2}, [0, 0]),
    ({"type": "array", "prefixItems": [STRING, INTEGER], "minItems": 3}, ["", 0, {}]),
    ({"anyOf": [{"type": "integer", "minimum": 2, "maximum": 1}, STRING]}, ""),
    ({"oneOf": [{"type": "null"}, STRING]}, None),
    ({"type": "object", "anyOf": [{"required": ["b"]}, {"required": ["a"]}]}, {"b": {}}),
    ({"allOf": [{"properties": {"a": INTEGER}}, {"properties": {"a": {"minimum": 2}}, "required": ["a"]}]}, {"a": 2}),
    ({"allOf": [{"type": ["integer", "string"]}, {"type": ["string", "null"]}]}, ""),
    ({"allOf": [{"enum": [1, 2, 3]}, {"enum": [3, 2]}]}, 2),
    ({"allOf": [{"anyOf": [STRING, INTEGER]}, {"anyOf": [INTEGER]}]}, 0),
    ({"allOf": [{"items": INTEGER}, {"items": {"minimum": 1}}], "minItems": 1}, [1]),
    ({"$defs": {"a": INTEGER, "b": {"minimum": 1}}, "allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]}, 1),
    ({"$defs": {"city/name": STRING}, "items": {"$ref": "#/$defs/city~1name"}, "minItems": 1}, [""]),
    ({"$defs": {"n": INTEGER}, "$ref": "#/$defs/n", "minimum": 4}, 4),
    (LINKED_LIST, {"value": 0, "next": None}),
]


@pytest.mark.parametrize(("schema", "expected"), VALUES, ids=lambda value: json.dumps(value)[:60])
def test_the_value_is_the_smallest_and_valid(schema: dict[str, Any], expected: Any) -> None:
    value = smallest_instance(schema)
    assert (value, type(value)) == (expected, type(expected))
    assert jsonschema_rs.is_valid(schema, value)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "(?=a)b"},
        {"type": "string", "pattern": "a^"},
        {"type": "string", "pattern": "^abc$", "minLength": 4},
        {"not": {}},
        {"if": {}, "then": False},
        {"type": "integer", "minimum": 2, "maximum": 1},
        {"type": "array", "minItems": 2, "maxItems": 1},
        {"type": "string", "minLength": 2, "maxLength": 1},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"$ref": "#"},
        {"$ref": "#/$defs/none"},
        {"$ref": "https://example.com/schema"},
        {"allOf": [STRING, INTEGER]},
        {"anyOf": [False]},
        {"enum": []},
        {"type": "thing"},
        {"type": 5},
        {"required": "a"},
        {"properties": []},
        {"type": "string", "maxLength": "3"},
        {"type": "integer", "multipleOf": "2"},
        {"$ref": 7},
        {"anyOf": {}},
        {"items": [], "minItems": True},
    ],
    ids=json.dumps,
)
def test_a_schema_without_a_value_or_with_an_error_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="finds no value"):
        smallest_instance(schema)


def _doubling() -> dict[str, Any]:
    """Each schema has two of the next."""
    found = {f"d{n}": {"minItems": 2, "items": {"$ref": f"#/$defs/d{n + 1}"}} for n in range(40)}
    return {"$defs": found | {"d40": STRING}, "$ref": "#/$defs/d0"}


def _dead_ends() -> dict[str, Any]:
    """Each schema has two options, and none of them has a value."""
    found = {f"d{n}": {"anyOf": [{"minItems": 1, "items": {"$ref": f"#/$defs/d{n + 1}"}}] * 2} for n in range(30)}
    return {"$defs": found | {"d30": False}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "minItems": 10**9},
        {"type": "string", "minLength": 10**9},
        {"type": "string", "pattern": "((((a{999}){999}){999}){999})"},
        {"type": "object", "minProperties": 10**9},
        {"minItems": 9_999, "items": {"$ref": "#/$defs/long"}, "$defs": {"long": {"const": "x" * 10_000}}},
        {"minItems": 9_999, "items": {"$ref": "#/$defs/many"}, "$defs": {"many": {"anyOf": [False] * 10_000}}},
        {"allOf": [{"enum": list(range(20_000))}, {"enum": list(range(20_000))}]},
        _doubling(),
        _dead_ends(),
    ],
    ids=[
        "items",
        "length",
        "pattern",
        "properties",
        "large values",
        "options",
        "common values",
        "doubling",
        "dead ends",
    ],
)
def test_a_schema_whose_value_would_be_too_large_or_too_hard_is_refused_soon(schema: dict[str, Any]) -> None:
    started = time.process_time()
    with pytest.raises(InvalidRequest, match="too large"):
        smallest_instance(schema)
    assert time.process_time() - started < 1
