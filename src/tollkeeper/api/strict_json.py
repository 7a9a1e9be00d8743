"""Strict JSON after RFC 8259 and RFC 7493 (I-JSON), with limits on depth and size."""

import json
import re
from typing import Any, NoReturn

import msgspec

from tollkeeper.errors import InvalidJson, InvalidRequest

MAX_DEPTH = 64
MAX_VALUES = 400_000
"""More than the 300,000 tokens that OpenAI accepts in one embeddings request. It bounds the time that parsing takes."""
MAX_OBJECTS = 50_000
MAX_DIGITS = 310
"""Of a number in a large body. A longer one overflows a double or has digits beyond its precision; it parses slowly."""
SMALL_BODY_BYTES = 4_096

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)', re.DOTALL)
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ZEROS = bytes.maketrans(b"123456789", b"000000000")


def decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """Decode a body into the decoder's type. Raises InvalidJson, InvalidRequest; neither contains any of the input."""
    check(body)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(_without_input(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidJson from None


def check(body: bytes) -> None:
    """Raise InvalidJson for input that JSON parsers interpret in different ways.

    These are duplicate keys, NaN and infinities (also by overflow), lone surrogates, NUL characters and bytes that are
    not UTF-8. Raise it also for more than MAX_DEPTH levels of nesting, and for more than MAX_VALUES values: parsing
    them would block the event loop, and with it all other requests.
    """
    if len(body) > SMALL_BODY_BYTES or body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _check_size(body)
    try:
        _parse(body)
        if b"\\u0000" in body and b"\\u0000" in body.replace(rb"\\", b""):
            raise ValueError
        _check_keys.decode(body.decode())
    except (ValueError, RecursionError):
        raise InvalidJson from None


def _require_unique(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > 1 and len({key for key, _ in pairs}) != len(pairs):
        raise ValueError


def _reject(_constant: str) -> NoReturn:
    raise ValueError


_parse = msgspec.json.Decoder().decode
"""Rejects numbers beyond a double, lone surrogates and bytes that are not UTF-8; but not NUL or duplicate keys."""
_check_keys = json.JSONDecoder(object_pairs_hook=_require_unique, parse_constant=_reject)


def _check_size(body: bytes) -> None:
    """Raise InvalidJson for too many values, too long numbers or too deep nesting. Each step takes linear time."""
    too_many = InvalidJson("The body has too many values.")
    if body.count(b'"') > 4 * MAX_VALUES:
        raise too_many
    skeleton = _STRING.sub(b"", body)
    opened = skeleton.count(b"[") + skeleton.count(b"{")
    if skeleton.count(b",") + opened > MAX_VALUES or skeleton.count(b"{") > MAX_OBJECTS:
        raise too_many
    if b"0" * MAX_DIGITS in skeleton.translate(_ZEROS):
        raise InvalidJson("The body has a number of too many digits.")
    brackets = skeleton.translate(_BRACKETS, _ALL_BUT_BRACKETS)
    if len(brackets) != 2 * opened:
        raise InvalidJson
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")  # removes the innermost level
    if brackets:
        raise InvalidJson(f"The body is nested over {MAX_DEPTH} levels.")


def _without_input(message: str) -> str:
    """A message of msgspec without input. It names our fields and types; only an unknown field's name is input."""
    if "unknown field" in message:
        return "The request has a field that this endpoint does not know."
    return message.replace("`", "'") + "."
