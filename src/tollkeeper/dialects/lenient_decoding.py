"""Decodes answers that have values of unexpected types, or JSON that only some servers write.

The readers decode with typed decoders, which fail for any such value. Only then they decode again with this module.
"""

import json
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin

import msgspec

from tollkeeper.dialects.answer_checks import MalformedAnswer

T = TypeVar("T", bound=msgspec.Struct)

DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What a typed decoder raises for bytes that it cannot decode."""

_ABSENT = object()


def decode_leniently(data: bytes, struct: type[T]) -> T:
    """The JSON object as a `struct`, all fields of which have defaults. Raises MalformedAnswer for other bytes.

    A value of a type that its field does not have is read as absent, in a list as well. `NaN`, infinities and lone
    surrogates are accepted, as by Python's own JSON decoder: NaN and infinities are read as null.
    """
    try:
        document = _without_surrogates(json.loads(data.decode(), parse_constant=lambda _: None, strict=False))
    except (ValueError, RecursionError):
        raise MalformedAnswer from None
    if not isinstance(document, dict):
        raise MalformedAnswer
    return _build(document, struct)


def _without_surrogates(value: Any) -> Any:
    """The value with a question mark in place of each lone surrogate, which has no encoding."""
    match value:
        case str():
            return value.encode(errors="replace").decode()
        case list():
            return [_without_surrogates(one) for one in value]
        case dict():
            return {_without_surrogates(name): _without_surrogates(one) for name, one in value.items()}
    return value


def _build(document: dict[str, Any], struct: type[T]) -> T:
    given = [field for field in msgspec.structs.fields(struct) if field.encode_name in document]
    values = {field.name: _read(document[field.encode_name], field.type) for field in given}
    return struct(**{name: value for name, value in values.items() if value is not _ABSENT})


def _read(value: Any, expected: Any) -> Any:
    """The value as the expected type; _ABSENT if it has another type."""
    if expected is Any:
        return value
    if expected is msgspec.Raw:
        return msgspec.Raw(msgspec.json.encode(value))
    if isinstance(expected, UnionType):
        read = (_read(value, one) for one in get_args(expected))
        return next((one for one in read if one is not _ABSENT), _ABSENT)
    if get_origin(expected) is list:
        if not isinstance(value, list):
            return _ABSENT
        (item,) = get_args(expected)
        return [read for one in value if (read := _read(one, item)) is not _ABSENT]
    if isinstance(expected, type) and issubclass(expected, msgspec.Struct):
        return _build(value, expected) if isinstance(value, dict) else _ABSENT
    if expected is NoneType or expected is None:
        return None if value is None else _ABSENT
    kind = get_origin(expected) or expected
    return value if type(value) is kind else _ABSENT
