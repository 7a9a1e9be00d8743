"""JSON as RFC 8259 and RFC 7493 (I-JSON) want it, and not deeper than anyone needs."""

import json
from typing import Any, NoReturn

from tollkeeper.errors import InvalidJson

DEEPEST = 64


def check(body: bytes) -> None:
    """Raise InvalidJson for what parsers disagree about.

    That is: duplicate keys, NaN and infinities (also by overflow), lone surrogates, NUL characters, bytes that are not
    UTF-8, and more than DEEPEST levels of nesting.
    """
    if body.count(b"[") + body.count(b"{") > DEEPEST:
        _check_depth(body)
    try:
        text = body.decode()
        _structure.decode(text)
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


_structure = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
_strings = json.JSONDecoder(object_pairs_hook=_characters)


def _check_depth(body: bytes) -> None:
    depth, in_string, escaped = 0, False, False
    for byte in body:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
            if depth > DEEPEST:
                raise InvalidJson(f"The body is nested over {DEEPEST} levels.")
        elif byte in b"]}":
            depth -= 1
