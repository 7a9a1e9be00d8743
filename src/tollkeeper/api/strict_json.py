"""JSON as RFC 8259 and RFC 7493 (I-JSON) want it, and not deeper than anyone needs."""

import json
import re
from typing import Any, NoReturn

import msgspec

from tollkeeper.errors import InvalidJson

MAX_DEPTH = 64
MAX_VALUES = 400_000
"""More than the 300,000 tokens that OpenAI takes in one embeddings request; and no parser is busy for long."""
MAX_OBJECTS = 50_000
MAX_DIGITS = 310
"""Of a number in a large body. One that has more is no double or says nothing with them, and is slow to read."""
SMALL = 4_096

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)', re.DOTALL)
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ZEROS = bytes.maketrans(b"123456789", b"000000000")


def check(body: bytes) -> None:
    """Raise InvalidJson for what parsers disagree about.

    That is: duplicate keys, NaN and infinities (also by overflow), lone surrogates, NUL characters, bytes that are not
    UTF-8, and more than MAX_DEPTH levels of nesting. Also for more values than anyone needs: parsing them would keep
    everybody else waiting.
    """
    if len(body) > SMALL or body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _check_size(body)
    try:
        _parse(body)
        if b"\\u0000" in body and b"\\u0000" in body.replace(rb"\\", b""):
            raise ValueError
        _keys.decode(body.decode())
    except (ValueError, RecursionError):
        raise InvalidJson from None


def _unique(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > 1 and len({key for key, _ in pairs}) != len(pairs):
        raise ValueError


def _refuse(_constant: str) -> NoReturn:
    raise ValueError


_parse = msgspec.json.Decoder().decode
"""It refuses what no double holds, lone surrogates, and all that is not UTF-8; but not NUL, nor duplicate keys."""
_keys = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)


def _check_size(body: bytes) -> None:
    """Raise InvalidJson for too many values, too long numbers or too deep nesting. No step takes long on any bytes."""
    too_many = InvalidJson("The body has too many values.")
    if body.count(b'"') > 4 * MAX_VALUES:
        raise too_many
    skeleton = _STRING.sub(b"", body)
    opened = skeleton.count(b"[") + skeleton.count(b"{")
    if skeleton.count(b",") + opened > MAX_VALUES or skeleton.count(b"{") > MAX_OBJECTS:
        raise too_many
    if b"0" * MAX_DIGITS in skeleton.translate(_ZEROS):
        raise InvalidJson("The body has a number of too many digits.")
    brackets = skeleton.translate(_BRACKETS, _BUT_BRACKETS)
    if len(brackets) != 2 * opened:
        raise InvalidJson
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")  # the innermost of each
    if brackets:
        raise InvalidJson(f"The body is nested over {MAX_DEPTH} levels.")
