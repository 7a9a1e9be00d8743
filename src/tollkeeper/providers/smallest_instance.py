"""The smallest value that a JSON Schema allows, for answers of the echo provider.

The work and the size of the value are bounded, whatever the schema is.
"""

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from tollkeeper.errors import InvalidRequest
from tollkeeper.providers.json_schema import (
    Budget,
    NoValue,
    is_number,
    is_of_type,
    limit,
    list_of,
    merge,
    resolve,
    types_of,
    without,
)
from tollkeeper.providers.smallest_match import smallest_match

MAX_DEPTH = 100
"""Schemas within each other, with those that references and options lead to."""

NUMBER_STEPS = 20
"""Exact fractions take so much longer than reading a keyword."""

_NUMBER_KEYWORDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_UNREAD = frozenset({"not", "if", "contains", "dependentRequired", "dependentSchemas", "dependencies", "$dynamicRef"})
"""Keywords that narrow a schema in ways that are not read here: a schema with one has no value here."""
_FORMATS = {
    "date-time": "2000-01-01T00:00:00Z",
    "date": "2000-01-01",
    "time": "00:00:00Z",
    "duration": "P0D",
    "email": "a@example.com",
    "idn-email": "a@example.com",
    "hostname": "example.com",
    "idn-hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "::1",
    "uri": "https://example.com",
    "iri": "https://example.com",
    "uuid": "00000000-0000-0000-0000-000000000000",
}


def smallest_instance(schema: Mapping[str, Any]) -> Any:
    """The smallest value: required fields only, the first option of several, empty texts, numbers near zero.

    Raises InvalidRequest for a schema that has no value, is too large, or has keywords that are not read here.
    """
    try:
        return _Builder(schema).build(schema, 0, frozenset())
    except NoValue:
        raise InvalidRequest("The echo model finds no value for this JSON Schema. Use a simpler one.") from None


class _Builder:
    """Builds one value. References are looked up in `root`."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._budget = Budget()

    def build(self, schema: Any, depth: int, references: frozenset[str]) -> Any:
        """The value of a schema. `references` are those that it is part of: the smallest value does not repeat one."""
        self._budget.spend()
        if schema is True:
            return {}
        if not isinstance(schema, dict) or depth > MAX_DEPTH:
            raise NoValue
        self._budget.spend(len(schema))
        if not _UNREAD.isdisjoint(schema):
            raise NoValue
        if "$ref" in schema:
            found = resolve(self._root, schema["$ref"], self._budget)
            if schema["$ref"] in references:
                raise NoValue
            merged = merge(without(schema, "$ref"), found, self._budget)
            return self.build(merged, depth + 1, references | {schema["$ref"]})
        if "allOf" in schema:
            merged = without(schema, "allOf")
            for part in list_of(schema["allOf"]):
                merged = merge(merged, part, self._budget)
            return self.build(merged, depth + 1, references)
        for name in ("anyOf", "oneOf"):
            if name in schema:
                return self._first_option(without(schema, name), list_of(schema[name]), depth, references)
        return self._value(schema, depth, references)

    def _first_option(
        self, rest: dict[str, Any], options: Sequence[Any], depth: int, references: frozenset[str]
    ) -> Any:
        """The value of the first option that has one."""
        for option in options:
            try:
                return self.build(merge(rest, option, self._budget), depth + 1, references)
            except NoValue:
                continue
        raise NoValue

    def _value(self, schema: dict[str, Any], depth: int, references: frozenset[str]) -> Any:
        types = types_of(schema)
        if "const" in schema:
            return self._first_listed([schema["const"]], types)
        if "enum" in schema:
            return self._first_listed(list_of(schema["enum"]), types)
        for name in types:
            self._budget.spend()
            try:
                return self._value_of_type(name, schema, depth, references)
            except NoValue:
                continue
        raise NoValue

    def _first_listed(self, values: Sequence[Any], types: Sequence[str]) -> Any:
        """The first value of a list that has one of the types."""
        for value in values:
            self._budget.spend(1 + len(types))
            if not types or any(is_of_type(value, name) for name in types):
                self._budget.spend_characters(len(json.dumps(value)))
                return value
        raise NoValue

    def _value_of_type(self, name: str, schema: dict[str, Any], depth: int, references: frozenset[str]) -> Any:
        match name:
            case "object":
                return self._object(schema, depth, references)
            case "array":
                return self._array(schema, depth, references)
            case "string":
                return self._string(schema)
            case "integer" | "number":
                if _NUMBER_KEYWORDS.isdisjoint(schema):
                    return 0
                self._budget.spend(NUMBER_STEPS)
                return _number(schema, whole=name == "integer")
            case "boolean":
                return False
            case "null":
                return None
            case _:
                raise NoValue

    def _object(self, schema: dict[str, Any], depth: int, references: frozenset[str]) -> dict[str, Any]:
        properties = schema.get("properties", {})
        required = list_of(schema.get("required", []))
        self._budget.spend(len(required))
        names = {name: None for name in required if isinstance(name, str)}
        least = limit(schema, "minProperties", 0)
        if not isinstance(properties, dict) or max(len(names), least) > limit(schema, "maxProperties", float("inf")):
            raise NoValue
        for name in properties:
            if len(names) >= least:
                break
            self._budget.spend()
            names[name] = None
        number = len(names)
        while len(names) < least:
            self._budget.spend()
            names[f"field_{number}"] = None
            number += 1
        others = schema.get("additionalProperties", True)
        value = {}
        for name in names:
            self._budget.spend_characters(len(name))
            value[name] = self.build(properties.get(name, others), depth + 1, references)
        return value

    def _array(self, schema: dict[str, Any], depth: int, references: frozenset[str]) -> list[Any]:
        items = schema.get("items", True)
        first = list_of(schema.get("prefixItems", items if isinstance(items, list) else []))
        others = schema.get("additionalItems", True) if isinstance(items, list) else items
        least = limit(schema, "minItems", 0)
        if least > limit(schema, "maxItems", least) or (least > 1 and schema.get("uniqueItems") is True):
            raise NoValue
        value: list[Any] = []
        while len(value) < least:
            item = first[len(value)] if len(value) < len(first) else others
            value.append(self.build(item, depth + 1, references))
        return value

    def _string(self, schema: dict[str, Any]) -> str:
        least, name, pattern = int(limit(schema, "minLength", 0)), schema.get("format"), schema.get("pattern")
        self._budget.spend_characters(least)
        if isinstance(name, str) and name in _FORMATS:  # libraries write a pattern beside the format that it describes
            text = _FORMATS[name]
        elif isinstance(pattern, str):
            text = smallest_match(pattern, self._budget)
        else:
            text = "x" * least
        if not least <= len(text) <= limit(schema, "maxLength", len(text)):
            raise NoValue
        return text


def _number(schema: Mapping[str, Any], *, whole: bool) -> int | float:
    """Zero, or a number within the bounds that is next to one of them."""
    lower, above = _bound(schema, "minimum", "exclusiveMinimum")
    upper, below = _bound(schema, "maximum", "exclusiveMaximum")

    def fits(value: Fraction) -> bool:
        return (lower is None or value > lower or (value == lower and not above)) and (
            upper is None or value < upper or (value == upper and not below)
        )

    bounds = [bound for bound in (lower, upper) if bound is not None]
    step = _step(schema, whole=whole)
    if step:
        multiples = [bound // step * step for bound in bounds]
        candidates = [one + offset for one in multiples for offset in (Fraction(0), step, -step)]
    else:
        candidates = [one + offset for one in bounds for offset in (0, 1, -1)]
        candidates += [sum(bounds, Fraction(0)) / 2]
    for candidate in (Fraction(0), *candidates):
        if fits(candidate):
            return int(candidate) if candidate.denominator == 1 else float(candidate)
    raise NoValue


def _step(schema: Mapping[str, Any], *, whole: bool) -> Fraction:
    """The number that the value must be a multiple of; zero: any."""
    given = schema.get("multipleOf", 0)
    if not is_number(given):
        raise NoValue
    step = abs(Fraction(str(given)))
    return Fraction(step.numerator if step else 1) if whole else step


def _bound(schema: Mapping[str, Any], inclusive: str, exclusive: str) -> tuple[Fraction | None, bool]:
    """A bound, and whether it is itself excluded. In the oldest drafts, `exclusive` is true or false."""
    given = [
        (Fraction(str(schema[name])), name == exclusive or schema.get(exclusive) is True)
        for name in (inclusive, exclusive)
        if is_number(schema.get(name))
    ]
    if not given:
        return None, False
    bound = (max if inclusive == "minimum" else min)(value for value, _ in given)
    return bound, any(excluded for value, excluded in given if value == bound)
