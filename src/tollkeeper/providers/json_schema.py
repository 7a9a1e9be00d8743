"""Reads the keywords of a JSON Schema for `smallest_instance`: types, counts, references, and two schemas as one."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from tollkeeper.errors import InvalidRequest

MAX_STEPS = 10_000
"""Steps for one value: about one for each keyword that is read, and for each 64 characters that are written."""
STEP_CHARACTERS = 64

_LOWER = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"})
_UPPER = frozenset({"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"})
_LISTS = frozenset({"required", "allOf"})
_OPTIONS = frozenset({"anyOf", "oneOf"})
_SCHEMAS = frozenset({"items", "additionalProperties"})
_TYPE_KEYWORDS = {
    "object": ("properties", "required", "minProperties"),
    "array": ("items", "prefixItems", "minItems"),
    "string": ("minLength", "maxLength", "format", "pattern"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}


class NoValue(Exception):
    """This schema has no value, or none that is found here. Another one may be tried."""


class Budget:
    """The steps that are left for one value."""

    def __init__(self) -> None:
        self._steps = MAX_STEPS

    def spend(self, steps: int = 1) -> None:
        """Raises InvalidRequest when there are no steps left."""
        self._steps -= steps
        if self._steps < 0:
            raise InvalidRequest("The JSON Schema is too large for the echo model.")

    def spend_characters(self, count: int) -> None:
        """The steps for reading or writing so many characters."""
        self.spend(count // STEP_CHARACTERS)


def list_of(value: Any) -> list[Any]:
    """The value if it is a list. Raises NoValue."""
    if not isinstance(value, list):
        raise NoValue
    return value


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_of_type(value: Any, name: str) -> bool:
    """Whether a JSON value has the type of this name."""
    match name:
        case "integer":
            return is_number(value) and value == int(value)
        case "number":
            return is_number(value)
        case "null":
            return value is None
        case _:
            kinds: dict[str, type] = {"object": dict, "array": list, "string": str, "boolean": bool}
            return name in kinds and isinstance(value, kinds[name])


def limit(schema: Mapping[str, Any], name: str, default: float) -> float:
    """A keyword's number, which is not below zero; `default` without the keyword. Raises NoValue."""
    value = schema.get(name, default)
    if not is_number(value) or value < 0:
        raise NoValue
    number: float = value
    return number


def types_of(schema: Mapping[str, Any]) -> list[str]:
    """The types that a schema allows. Without a `type`, its other keywords tell; none if it lists its values."""
    if "type" in schema:
        return _type_names(schema["type"])
    if "const" in schema or "enum" in schema:
        return []
    return [name for name, keywords in _TYPE_KEYWORDS.items() if any(one in schema for one in keywords)] or ["object"]


def resolve(root: Any, reference: Any, budget: Budget) -> Any:
    """The schema that a reference within the root names by a JSON Pointer (RFC 6901). Raises NoValue."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise NoValue
    budget.spend_characters(len(reference))
    found = root
    for part in reference[1:].split("/")[1:]:
        budget.spend()
        key = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and key in found:
            found = found[key]
        elif isinstance(found, list) and key.isdecimal() and len(key) < 9 and int(key) < len(found):
            found = found[int(key)]
        else:
            raise NoValue
    return found


def without(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The schema without one keyword."""
    return {other: value for other, value in schema.items() if other != name}


def merge(first: dict[str, Any], second: Any, budget: Budget) -> dict[str, Any]:
    """A schema of the values that both schemas allow. Raises NoValue where it is certain that there are none."""
    budget.spend()
    if second is True:
        return first
    if not isinstance(second, dict):
        raise NoValue
    budget.spend(len(first) + len(second))
    merged = dict(first)
    for name, value in second.items():
        if name == "$ref" and name in first:
            merged["allOf"] = [*list_of(merged.get("allOf", [])), {name: value}]
        else:
            merged[name] = _both(name, merged[name], value, budget) if name in merged else value
    return merged


def _both(name: str, first: Any, second: Any, budget: Budget) -> Any:
    """The value of a keyword that two schemas have."""
    if name in _LISTS:
        budget.spend(len(list_of(first)) + len(list_of(second)))
        return [*first, *second]
    if name in _LOWER and is_number(first) and is_number(second):
        return max(first, second)
    if name in _UPPER and is_number(first) and is_number(second):
        return min(first, second)
    if name == "type":
        allowed, names = set(_type_names(first)), _type_names(second)
        budget.spend(len(allowed) + len(names))
        return [one for one in names if one in allowed or (one == "integer" and "number" in allowed)] or (
            ["integer"] if "integer" in allowed and "number" in names else []
        )
    if name in _OPTIONS:
        budget.spend(len(list_of(first)))
        return [{"allOf": [option, {name: second}]} for option in first]
    if name in _SCHEMAS and not isinstance(second, list):
        return {"allOf": [first, second]}
    if name == "enum":
        return _common(list_of(first), list_of(second), budget)
    if name == "const":
        return _common([first], [second], budget)[0]
    if name == "properties" and isinstance(first, dict) and isinstance(second, dict):
        budget.spend(len(first) + len(second))
        return first | {key: {"allOf": [first[key], value]} if key in first else value for key, value in second.items()}
    return second


def _common(first: Sequence[Any], second: Sequence[Any], budget: Budget) -> list[Any]:
    """The values that are in both lists. Raises NoValue if there are none."""
    budget.spend(len(first) + len(second))
    encoded = [[json.dumps(value, sort_keys=True) for value in values] for values in (first, second)]
    budget.spend_characters(sum(len(text) for texts in encoded for text in texts))
    allowed = set(encoded[1])
    common = [value for value, text in zip(first, encoded[0], strict=True) if text in allowed]
    if not common:
        raise NoValue
    return common


def _type_names(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [one for one in list_of(value) if isinstance(one, str)]
