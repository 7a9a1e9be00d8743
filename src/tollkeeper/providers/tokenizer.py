"""Counting tokens in text, with the vocabularies that come with `bpe-openai`.

Loading one takes a third of a second and 100 MB, so it happens on first need, and off the event loop. The tokenizer
keeps Python's global lock while it counts: so no text is counted in one go, and none that is very long in full.
"""

import asyncio
import random
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from bpe_openai._bindings import PyTokenizer

BEST_AT_HAND = "o200k_base"
"""For models whose vocabulary is not public: the newest there is."""

MAX_CHARACTER_LENGTH = 4
"""Bytes in UTF-8, and so tokens at most."""

MAX_BOUNDED_BYTES = 512 * 1024
"""Larger requests are bounded by their bytes alone."""
SLICE = 32 * 1024
"""Characters counted at a time."""
SAMPLES, SAMPLE = 512, 1024
"""Of longer texts so many samples are counted, of so many characters, taken from anywhere in them."""
AT_ONCE = 2_000
"""Characters that are counted faster than a thread can be woken."""

_STRING = re.compile(rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"', re.DOTALL)
_OLDER = re.compile(r"gpt-3|gpt-4([-:]|$)|text-embedding-")
_KNOWN = re.compile(r"(gpt-(35|3\.5|4o?|4\.\d|5(\.\d)?)|chatgpt-4o|o[134]|text-embedding-(3|ada))([-:]|$)")


def encoding_name(model: str) -> str:
    """The vocabulary of an OpenAI model; the best at hand for any other."""
    return "cl100k_base" if _OLDER.match(model.removeprefix("ft:")) else BEST_AT_HAND


async def bound(model: str, body: bytes) -> int | None:
    """No fewer tokens than a model of OpenAI's reads of this JSON, but for its template.

    None where that cannot be said: the vocabulary is not known, or it would take too long.
    """
    if not _KNOWN.match(model.removeprefix("ft:")) or len(body) > MAX_BOUNDED_BYTES:
        return None
    return await asyncio.get_running_loop().run_in_executor(_thread("input"), _bound, model, body)


async def count(model: str, texts: tuple[str, ...], *, output: bool = False) -> int:
    """The tokens in these texts together. An `output` does not wait for anybody's input."""
    name = encoding_name(model)
    if name in _loaded and sum(map(len, texts)) <= AT_ONCE:
        return _count(name, texts)
    thread = _thread("output" if output else "input")
    return await asyncio.get_running_loop().run_in_executor(thread, _count, name, texts)


async def cut(model: str, text: str, tokens: int) -> str:
    """The first `tokens` tokens of a text."""
    return await asyncio.get_running_loop().run_in_executor(_thread("output"), _cut, model, text, tokens)


def _count(name: str, texts: tuple[str, ...]) -> int:
    encoding = _encoding(name)
    length = sum(map(len, texts))
    long = length > SAMPLES * SAMPLE
    pieces = _sample(texts) if long else _pieces(texts, SLICE)
    tokens = sum([int(encoding.count(piece)) for piece in pieces])
    return -(-tokens * length // sum(map(len, pieces))) if long else tokens


def _pieces(texts: tuple[str, ...], size: int) -> list[str]:
    return [text[at : at + size] for text in texts for at in range(0, len(text), size)]


def _sample(texts: tuple[str, ...]) -> list[str]:
    """Short texts are drawn together, as many as are a sample: else one would stand for as much as a long one does."""
    samples: list[list[str]] = []
    room = 0
    for piece in _pieces(texts, SAMPLE):
        if room <= 0:
            samples.append([])
            room = SAMPLE
        samples[-1].append(piece)
        room -= len(piece)
    drawn = random.sample(samples, min(SAMPLES, len(samples)))
    return [piece for one in drawn for piece in one]


def _bound(model: str, body: bytes) -> int:
    """Each string as it is and as it is written, whichever is more, and whatever holds them together; or all as it is.

    The last is more where short strings stand side by side, and nothing but quotes and commas holds them together.
    """
    encoding = _encoding(encoding_name(model))

    def tokens(text: str) -> int:
        return sum(int(encoding.count(text[at : at + SLICE])) for at in range(0, len(text), SLICE))

    total = tokens(_STRING.sub(b'""', body).decode())
    for found in _STRING.finditer(body):
        written = found[1].decode()
        said = orjson.loads(found[0]) if "\\" in written else ""
        total += max(tokens(written), tokens(said))
    return max(total, tokens(body.decode()))


def _cut(model: str, text: str, tokens: int) -> str:
    encoding = _encoding(encoding_name(model))
    encoded = encoding.encode(text)
    if len(encoded) <= tokens:
        return text
    for end in range(tokens, max(0, tokens - MAX_CHARACTER_LENGTH), -1):
        with suppress(ValueError):  # the cut is inside a character: so leave out what there is of it
            return str(encoding.decode(encoded[:end]))
    return ""


@cache
def _thread(of: str) -> ThreadPoolExecutor:
    """One for what callers send, another for what they get."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"tokenizer-{of}")


_loaded: set[str] = set()


@cache
def _encoding(name: str) -> "PyTokenizer":
    """The compiled tokenizer itself: the package's front builds tables in Python, 25 MB that nobody here looks at."""
    from bpe_openai._bindings import tokenizer_for_encoding  # 100 MB of memory that most processes never need

    encoding = tokenizer_for_encoding(name)
    _loaded.add(name)
    return encoding
