"""Counting tokens in text, with the vocabularies that come with `bpe-openai`.

Loading one takes a third of a second and 100 MB, so it happens on first need, and off the event loop.
"""

import asyncio
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bpe_openai._bindings import PyTokenizer

BEST_AT_HAND = "o200k_base"
"""For models whose vocabulary is not public: the newest there is."""

LONGEST_CHARACTER = 4
"""Bytes in UTF-8, and so tokens at most."""

_OLDER = ("gpt-4-", "gpt-3.5", "text-embedding-")


def encoding_name(model: str) -> str:
    """The vocabulary of an OpenAI model; the best at hand for any other."""
    return "cl100k_base" if model == "gpt-4" or model.startswith(_OLDER) else BEST_AT_HAND


async def count(model: str, texts: tuple[str, ...]) -> int:
    """The tokens in these texts together."""
    return await asyncio.to_thread(_count, model, texts)


async def cut(model: str, text: str, tokens: int) -> str:
    """The first `tokens` tokens of a text."""
    return await asyncio.to_thread(_cut, model, text, tokens)


def _count(model: str, texts: tuple[str, ...]) -> int:
    encoding = _encoding(encoding_name(model))
    return sum(encoding.count(text) for text in texts)


def _cut(model: str, text: str, tokens: int) -> str:
    encoding = _encoding(encoding_name(model))
    encoded = encoding.encode(text)
    if len(encoded) <= tokens:
        return text
    for end in range(tokens, max(0, tokens - LONGEST_CHARACTER), -1):
        with suppress(ValueError):  # the cut is inside a character: so leave out what there is of it
            return str(encoding.decode(encoded[:end]))
    return ""


@cache
def _encoding(name: str) -> "PyTokenizer":
    """The compiled tokenizer itself: the package's front builds tables in Python, 25 MB that nobody here looks at."""
    from bpe_openai._bindings import tokenizer_for_encoding  # 100 MB of memory that most processes never need

    return tokenizer_for_encoding(name)
