"""Counting tokens in text, with the vocabularies that come with `bpe-openai`.

Loading one takes a third of a second and 100 MB, so it happens on first need, and off the event loop.
"""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bpe_openai._bindings import PyTokenizer

BEST_AT_HAND = "o200k_base"
"""For models whose vocabulary is not public: the newest there is."""

LONGEST_CHARACTER = 4
"""Bytes in UTF-8, and so tokens at most."""

MOST_EXACT_BYTES = 2 * 1024 * 1024
"""Larger requests are bounded by their bytes alone."""
SLICE = 32 * 1024
"""Characters counted at a time: the tokenizer keeps Python's global lock, and others want it too."""

_OLDER = ("gpt-4-", "gpt-3.5", "text-embedding-")
_KNOWN = re.compile(r"(ft:)?(gpt-|chatgpt-|o\d|text-embedding-)")


def encoding_name(model: str) -> str:
    """The vocabulary of an OpenAI model; the best at hand for any other."""
    return "cl100k_base" if model == "gpt-4" or model.startswith(_OLDER) else BEST_AT_HAND


async def bound(model: str, body: bytes) -> int | None:
    """The tokens of a whole request as text: what a provider reads of it is no more, but for its template.

    None where that is no bound, because the model's vocabulary is not known, or would take too long.
    """
    if not _KNOWN.match(model) or len(body) > MOST_EXACT_BYTES:
        return None
    return await count(model, (body.decode(),))


async def count(model: str, texts: tuple[str, ...]) -> int:
    """The tokens in these texts together."""
    return await asyncio.get_running_loop().run_in_executor(_threads(), _count, model, texts)


async def cut(model: str, text: str, tokens: int) -> str:
    """The first `tokens` tokens of a text."""
    return await asyncio.get_running_loop().run_in_executor(_threads(), _cut, model, text, tokens)


def _count(model: str, texts: tuple[str, ...]) -> int:
    encoding = _encoding(encoding_name(model))
    return sum(encoding.count(text[at : at + SLICE]) for text in texts for at in range(0, len(text), SLICE))


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
def _threads() -> ThreadPoolExecutor:
    """Few, and nobody else's: counting is no reason for others to wait."""
    return ThreadPoolExecutor(max_workers=2, thread_name_prefix="tokenizer")


@cache
def _encoding(name: str) -> "PyTokenizer":
    """The compiled tokenizer itself: the package's front builds tables in Python, 25 MB that nobody here looks at."""
    from bpe_openai._bindings import tokenizer_for_encoding  # 100 MB of memory that most processes never need

    return tokenizer_for_encoding(name)
