"""JSON as RFC 8259 and RFC 7493 (I-JSON) want it, and not deeper than anyone needs."""

import json
import re
from itertools import accumulate
from typing import Any, NoReturn

from tollkeeper.errors import InvalidJson

DEEPEST = 64
MOST_VALUES = 400_000
"""More than the 300,000 tokens that OpenAI takes in one embeddings request; and no parser is busy for long."""
MOST_OBJECTS = 50_000
SMALL = 4_096

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)', re.DOTALL)
_MAY_OVERFLOW = re.compile(rb"[0-9.][eE]|[0-9]{300}")
_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def check(body: bytes) -> None:
    """Raise InvalidJson for what parsers disagree about.

    That is: duplicate keys, NaN and infinities (also by overflow), lone surrogates, NUL characters, bytes that are not
    UTF-8, and more than DEEPEST levels of nesting. Also for more values than anyone needs: parsing them would keep
    everybody else waiting.
    """
    structure = _structure
    if len(body) > SMALL or body.count(b"[") + body.count(b"{") > DEEPEST:
        skeleton = _skeleton(body)
        structure = _structure if _MAY_OVERFLOW.search(skeleton) else _plain_structure
    try:
        text = body.decode()
        structure.decode(text)
        if b"\\u" in body:
            _strings.decode(text)
    except (ValueError, RecursionError):
        raise InvalidJson from None


def _unique(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > 1 and len({key for key, _ in pairs}) != len(pairs):
        raise ValueError


def _characters(pairs: list[tuple[str, Any]]) -> None:
    """Escapes can spell what UTF-8 cannot: lone surrogates; and NUL, which databases refuse."""
    for key, value in pairs:
        _check_characters(key)
        _check_characters(value)


def _check_characters(value: Any) -> None:
    if isinstance(value, str):
        value.encode()
        if "\0" in value:
            raise ValueError
    elif isinstance(value, list):
        for item in value:
            _check_characters(item)


def _refuse(_constant: str) -> NoReturn:
    raise ValueError


def _finite(number: str) -> None:
    if float(number) in {float("inf"), float("-inf")}:
        raise ValueError


_plain_structure = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)
_structure = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
_strings = json.JSONDecoder(object_pairs_hook=_characters)


def _skeleton(body: bytes) -> bytes:
    """The body without its strings, if it is neither too deep nor has too many values."""
    if body.count(b'"') > 4 * MOST_VALUES:
        raise InvalidJson("The body has too many values.")
    skeleton = _STRING.sub(b"", body)
    if skeleton.count(b",") > MOST_VALUES or skeleton.count(b"{") > MOST_OBJECTS:
        raise InvalidJson("The body has too many values.")
    brackets = skeleton.translate(None, _BUT_BRACKETS)
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > DEEPEST:
        raise InvalidJson(f"The body is nested over {DEEPEST} levels.")
    return skeleton
