"""Strict JSON after RFC 8259 and RFC 7493 (I-JSON), with limits on depth, size and number of values.

The limits bound the time of each step in C code, which nothing else in the process can interrupt: about 20 ms for a
body of 20 MiB. The other steps are in Python, or work on slices.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from tollkeeper.api.invalid_fields import invalid_request
from tollkeeper.errors import InvalidJson
from tollkeeper.worker_thread import pause

MAX_DEPTH = 64
MAX_VALUES = 400_000
"""More than the 300,000 tokens that OpenAI accepts in one embeddings request."""
MAX_CONTAINERS = 30_000
"""Objects and lists."""
MAX_FIELDS = 50_000
MAX_ESCAPES = 1_000_000
"""Backslashes. JSON without characters beyond ASCII has one for each letter of most languages of Asia."""
MAX_NON_ASCII_BYTES = 8 * 1024 * 1024
"""Of UTF-8, whose characters of several bytes take longest to parse: more text than any model takes."""
MAX_STRUCTURE_BYTES = 8 * 1024 * 1024
"""All that is outside of strings: numbers, punctuation and white space."""
MAX_DIGITS = 309
"""A number has fewer. One with so many can overflow a double, or has digits beyond its precision."""
MAX_SLOW_NUMBERS = 1_000
"""Numbers with an exponent or many digits. Parsing one exactly can take 25 µs, a thousand times as long as others."""
SMALL_BODY_BYTES = 4_096
SLICE_BYTES = 64 * 1024

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_REST_OF_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+("|(\\?)\Z)', re.DOTALL)
_ASCII = bytes(range(128))
_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)
_TOO_MANY_DIGITS = b"0" * MAX_DIGITS
_NUMBERS = bytes(ord("0") if byte in b"0123456789." else ord("e") if byte in b"eE" else ord(" ") for byte in range(256))
"""Maps the characters of numbers to "0", and the sign of an exponent to "e"."""

Decoded = TypeVar("Decoded")

_parse = msgspec.json.Decoder().decode
"""Rejects numbers beyond a double, lone surrogates and bytes that are not UTF-8; but not NUL or duplicate keys."""


def decode(kind: type[Decoded], body: bytes) -> Decoded:
    """Decode a body into this type. Raises InvalidJson, InvalidRequest; neither contains any of the input."""
    try:
        return msgspec.convert(parse(body), kind)
    except msgspec.ValidationError as error:
        raise invalid_request(kind, str(error)) from None


def parse(body: bytes) -> Any:
    """Parse a body. Raises InvalidJson for input that JSON parsers interpret in different ways, and beyond the limits.

    The former are duplicate keys, NaN and infinities (also by overflow), lone surrogates, NUL characters and bytes that
    are not UTF-8.
    """
    is_small = len(body) <= SMALL_BODY_BYTES and body.count(b"[") + body.count(b"{") <= MAX_DEPTH
    if not is_small:
        _check_size(body)
    _check_numbers(body, is_small=is_small)
    pause()
    try:
        value = _parse(body)
        if is_small:
            _check_keys(body.decode())
    except (ValueError, RecursionError):
        raise InvalidJson from None
    pause()
    if b"\\u0000" in body and b"\\u0000" in body.replace(rb"\\", b""):
        raise InvalidJson("The body has a NUL character, which databases and providers do not take. Remove it.")
    if not is_small:
        fields = _count_fields(value)
        if fields != _count(body, b":") and fields != structure(body).count(b":"):
            raise InvalidJson("An object of the body has a field twice.")  # the value has only the last of the two
    return value


def _require_unique(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > 1 and len({key for key, _ in pairs}) != len(pairs):
        raise ValueError


_check_keys = json.JSONDecoder(object_pairs_hook=_require_unique).decode
"""Raises ValueError for duplicate keys. The fastest way for a small body, but for a large one a long step in C."""


def structure(body: bytes) -> bytes:
    """What is outside of strings. Without the quotes, except the one of a string that does not end."""
    parts = []
    inside = escaped = False
    for part in _slices(body):
        if inside and b'"' not in part and b"\\" not in part:
            escaped = False
            continue
        if inside:
            rest = _REST_OF_STRING.match(part, 1 if escaped else 0)
            assert rest is not None
            inside, escaped = rest[1] != b'"', bool(rest[2])
            part = part[rest.end() :]
        if not inside:
            outside, inside, escaped = _without_strings(part)
            parts.append(outside)
    return b"".join(parts) + (b'"' if inside else b"")


def _without_strings(part: bytes) -> tuple[bytes, bool, bool]:
    """A slice without its strings; whether it ends inside of one; and whether a backslash escapes what follows.

    A quote is added at the end. It closes a string that is open there, or else stays. So each string is read once.
    """
    ends_with_escape = bool((len(part) - len(part.rstrip(b"\\"))) % 2)
    outside = _STRING.sub(b"", (part[:-1] if ends_with_escape else part) + b'"')
    if not outside.endswith(b'"'):
        return outside, True, ends_with_escape
    return outside[:-1] + b"\\" * ends_with_escape, False, False


def _check_size(body: bytes) -> None:
    """Raise InvalidJson for a body beyond the limits, before it is parsed."""
    if _count(body, b"\\") > MAX_ESCAPES:
        raise InvalidJson("The body has too many escaped characters.")
    if not body.isascii() and sum(len(part.translate(None, _ASCII)) for part in _slices(body)) > MAX_NON_ASCII_BYTES:
        raise InvalidJson(f"The body has too many characters beyond ASCII: over {MAX_NON_ASCII_BYTES} bytes.")
    if not _is_within_limits(body) or len(body) > MAX_STRUCTURE_BYTES:
        outside = structure(body)
        if not _is_within_limits(outside) or len(outside) > MAX_STRUCTURE_BYTES:
            raise InvalidJson("The body has too many values.")


def _check_numbers(body: bytes, *, is_small: bool) -> None:
    """Raise InvalidJson for a number of too many digits, or for too many numbers that are slow to parse."""
    if _has_long_number(body) and _has_long_number(structure(body)):
        raise InvalidJson("The body has a number of too many digits.")
    if not is_small and _has_slow_numbers(body) and _has_slow_numbers(structure(body)):
        raise InvalidJson("The body has too many numbers with exponents or more than 15 digits.")


def _has_long_number(outside: bytes) -> bool:
    if len(outside) <= MAX_DIGITS:
        return False
    return any(_TOO_MANY_DIGITS in part.translate(_DIGITS) for part in _slices(outside, overlap=MAX_DIGITS))


def _has_slow_numbers(outside: bytes) -> bool:
    found = 0
    for part in _slices(outside):
        numbers = part.translate(_NUMBERS)
        found += numbers.count(b"0e") + numbers.count(b"0" * 17)
        if found > MAX_SLOW_NUMBERS:
            return True
    return False


def _is_within_limits(outside: bytes) -> bool:
    containers = _count(outside, b"[") + _count(outside, b"{")
    return (
        containers <= MAX_CONTAINERS
        and _count(outside, b",") + containers <= MAX_VALUES
        and _count(outside, b":") <= MAX_FIELDS
    )


def _count(body: bytes, byte: bytes) -> int:
    return sum(part.count(byte) for part in _slices(body))


def _slices(body: bytes, overlap: int = 0) -> Iterator[bytes]:
    """The slices of a body. Between two of them, the event loop has its turn."""
    for start in range(0, len(body), SLICE_BYTES):
        pause()
        yield body[start : start + SLICE_BYTES + overlap]


def _count_fields(value: Any) -> int:
    """The number of fields of all objects. Raises InvalidJson for values that are nested too deeply."""
    fields = 0
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for container in level:
            if type(container) is dict:
                fields += len(container)
                below += [child for child in container.values() if type(child) is dict or type(child) is list]
            elif type(container) is list:
                below += [child for child in container if type(child) is dict or type(child) is list]
        if not below:
            return fields
        level = below
    raise InvalidJson(f"The body is nested over {MAX_DEPTH} levels.")
