"""What msgspec finds wrong in a request, as a sentence that names the field. It has nothing of the request itself."""

import re
from typing import Any

from msgspec import inspect

from tollkeeper.errors import InvalidRequest

_TYPES = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
}
_COLLECTIONS = {"str": "string", "array": "list"}
_PATH = re.compile(r" - at `\$([^`]*)`$")
_STEP = re.compile(r"\.(\w+)|\[")
_MISSING = re.compile(r"Object missing required field `(\w+)`")
_WRONG_TYPE = re.compile(r"Expected `([\w| ]+)`, got `")
_WRONG_LENGTH = re.compile(r"Expected `(str|array)` of length (>=|<=) (\d+)")
_WRONG_NUMBER = re.compile(r"Expected `(?:int|float)` (>=|<=|>|<) ([\d.]+)")
_COMPARISONS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}


def invalid_request(kind: Any, message: str) -> InvalidRequest:
    """The error for a message of msgspec, which does not convert a request to this kind of struct."""
    at = _PATH.search(message)
    path = at[1].removeprefix(".") if at is not None else ""
    sentence = _sentence(kind, message, path)
    return InvalidRequest(sentence, parameter=path or None)


def _sentence(kind: Any, message: str, path: str) -> str:
    name = path or "The body"
    if "unknown field" in message:
        found = _type_at(kind, path)
        known = [field.encode_name for field in found.fields] if isinstance(found, inspect.StructType) else []
        return f"Unknown field{f' in {path}' if path else ''}. Known fields: {', '.join(known)}."
    if (missing := _MISSING.match(message)) is not None:
        return f"{f'{path}.' if path else ''}{missing[1]} is missing."
    if (wrong := _WRONG_TYPE.match(message)) is not None:
        types = [_TYPES.get(one, one) for one in wrong[1].split(" | ") if one != "null"]
        return f"{name} must be {' or '.join(types)}."
    if (wrong := _WRONG_LENGTH.match(message)) is not None:
        collection, comparison, length = wrong.groups()
        if (comparison, length) == (">=", "1"):
            return f"{name} must be a non-empty {_COLLECTIONS[collection]}."
        of = "characters" if collection == "str" else "items"
        return f"{name} must have {_COMPARISONS[comparison]} {length} {of}."
    if (wrong := _WRONG_NUMBER.match(message)) is not None:
        return f"{name} must be {_COMPARISONS[wrong[1]]} {wrong[2].removesuffix('.0')}."
    return f"{name} {_complaint(_type_at(kind, path))}."


def _complaint(found: Any) -> str:
    """What a value of this type must be, where msgspec says it in terms of the request or of a pattern."""
    if isinstance(found, inspect.LiteralType):
        return f"must be one of: {', '.join(map(str, found.values))}"
    if isinstance(found, inspect.StrType) and found.pattern is not None:
        return f"must match {found.pattern.replace(chr(92) + 'Z', '$')}"
    return "has a value that is not valid"


def _type_at(kind: Any, path: str) -> Any:
    """The type at a path of a struct, as `msgspec.inspect` describes it; None if there is none."""
    found: Any = _inner(inspect.type_info(kind))
    for step in _STEP.finditer(f".{path}" if path else ""):
        if step[1] is None:
            found = found.item_type if isinstance(found, inspect.ListType | inspect.VarTupleType) else None
        elif isinstance(found, inspect.StructType):
            found = next((field.type for field in found.fields if field.encode_name == step[1]), None)
        else:
            return None
        found = _inner(found)
    return found


def _inner(found: Any) -> Any:
    """The type without its metadata, and without null."""
    while isinstance(found, inspect.Metadata | inspect.UnionType):
        if isinstance(found, inspect.Metadata):
            found = found.type
        else:
            found = next((one for one in found.types if not isinstance(one, inspect.NoneType)), None)
    return found
