"""Placeholders for what is redacted on the way in, and put back on the way out: random ones for each call."""

import re
import secrets
from collections.abc import Sequence

import orjson

LABEL = re.compile(r"[A-Z]{4,8}")
_PLACEHOLDER = re.compile(r"\[[A-Z]{4,8}_[0-9a-f]{8}\]")
_BEGIN = re.compile(r"\[(?:[A-Z]{0,8}|[A-Z]{4,8}_[0-9a-f]{0,8})\Z")
"""What may be the begin of a placeholder, at the end of a text."""


class Placeholders:
    """The placeholders of one call. The same value has the same placeholder."""

    def __init__(self) -> None:
        self._tokens: dict[str, str] = {}
        self._values: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self._tokens)

    @property
    def tokens(self) -> tuple[str, ...]:
        """All placeholders, in the order in which their values were found."""
        return tuple(self._tokens.values())

    def token_for(self, label: str, value: str) -> str:
        """The placeholder of a value."""
        token = self._tokens.get(value)
        if token is None:
            token = self._tokens[value] = f"[{label}_{secrets.token_hex(4)}]"
            self._values[token] = value
        return token

    def adopt(self, tokens: Sequence[str]) -> None:
        """Put back the values of this call for these placeholders of another call with the same values, in the same
        order."""
        self._values = dict(zip(tokens, self._tokens, strict=True))

    def restore(self, text: str, *, in_json: bool = False) -> str:
        """The text with the values in place of their placeholders; `in_json`: it is a part of a JSON text."""

        def value_of(match: re.Match[str]) -> str:
            value = self._values.get(match[0])
            if value is None:
                return match[0]
            return orjson.dumps(value)[1:-1].decode() if in_json else value

        return _PLACEHOLDER.sub(value_of, text)


def possible_begin(text: str) -> int:
    """Where at the end of a text a placeholder may begin; the length of the text, if none may."""
    found = _BEGIN.search(text, max(0, len(text) - 24))
    return found.start() if found is not None else len(text)
