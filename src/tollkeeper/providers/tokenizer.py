"""Counts the tokens of text, with the vocabularies of `bpe-openai`.

Loading a vocabulary takes up to 0.1 s and 70 MB, so it happens on first use, in a thread. The tokenizer holds
Python's global interpreter lock while it counts. Texts are therefore counted in slices, and very long ones by samples.
"""

import asyncio
import random
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from bpe_openai._bindings import PyTokenizer

DEFAULT_ENCODING = "o200k_base"
"""The newest public vocabulary. It stands in for those that are not public."""

MAX_CHARACTER_BYTES = 4
"""In UTF-8: a character has at most as many tokens."""

MAX_BOUNDED_BYTES = 512 * 1024
"""Larger requests have no bound but their bytes."""
SLICE_CHARACTERS = 32 * 1024
"""Characters in one call of the tokenizer."""
MAX_SAMPLES, SAMPLE_CHARACTERS = 512, 1024
"""Longer texts are counted by random samples."""
MAX_INLINE_CHARACTERS = 2_000
"""Counting this many takes less time than waking a thread."""

_STRING = re.compile(rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"', re.DOTALL)
_OLDER = re.compile(r"gpt-3|gpt-4([-:]|$)|text-embedding-")
_KNOWN = re.compile(r"(gpt-(35|3\.5|4o?|4\.\d|5(\.\d)?)|chatgpt-4o|o[134]|text-embedding-(3|ada))([-:]|$)")


def encoding_name(model: str) -> str:
    """The vocabulary of an OpenAI model; DEFAULT_ENCODING for any other model."""
    return "cl100k_base" if _OLDER.match(model.removeprefix("ft:")) else DEFAULT_ENCODING


def load() -> None:
    """Load the newest vocabulary now, before it is needed."""
    _encoding(DEFAULT_ENCODING)


async def bound(model: str, body: bytes) -> int | None:
    """An upper bound on the tokens that an OpenAI model reads of a JSON body, without the chat template's own.

    None if the model's vocabulary is not known, or the body is larger than MAX_BOUNDED_BYTES.
    """
    if not _KNOWN.match(model.removeprefix("ft:")) or len(body) > MAX_BOUNDED_BYTES:
        return None
    return await asyncio.get_running_loop().run_in_executor(_thread("input"), _bound, model, body)


async def count(model: str, texts: tuple[str, ...], *, output: bool = False) -> int:
    """The tokens of these texts together. An `output` does not queue behind inputs."""
    name = encoding_name(model)
    if name in _loaded and sum(map(len, texts)) <= MAX_INLINE_CHARACTERS:
        return _count(name, texts)
    thread = _thread("output" if output else "input")
    return await asyncio.get_running_loop().run_in_executor(thread, _count, name, texts)


async def truncate(model: str, text: str, max_tokens: int) -> str:
    """The text, or its first `max_tokens` tokens if it has more."""
    return await asyncio.get_running_loop().run_in_executor(_thread("output"), _truncate, model, text, max_tokens)


def _count(name: str, texts: tuple[str, ...]) -> int:
    encoding = _encoding(name)
    length = sum(map(len, texts))
    is_long = length > MAX_SAMPLES * SAMPLE_CHARACTERS
    slices = _sample(texts) if is_long else _slices(texts, SLICE_CHARACTERS)
    tokens = sum([int(encoding.count(text)) for text in slices])
    return -(-tokens * length // sum(map(len, slices))) if is_long else tokens


def _slices(texts: tuple[str, ...], size: int) -> list[str]:
    return [text[start : start + size] for text in texts for start in range(0, len(text), size)]


def _sample(texts: tuple[str, ...]) -> list[str]:
    """Random slices of the texts. Short texts are grouped to about the length of a sample, so that a short text does
    not weigh as much as a long one.
    """
    samples: list[list[str]] = []
    free = 0
    for text in _slices(texts, SAMPLE_CHARACTERS):
        if free <= 0:
            samples.append([])
            free = SAMPLE_CHARACTERS
        samples[-1].append(text)
        free -= len(text)
    drawn = random.sample(samples, min(MAX_SAMPLES, len(samples)))
    return [text for sample in drawn for text in sample]


def _bound(model: str, body: bytes) -> int:
    """The larger of two counts: of the strings plus the JSON around them, and of the body as one text.

    A string counts as the larger of its escaped and its decoded form. The second count is the larger one for many short
    strings with nothing but quotes and commas between them.
    """
    encoding = _encoding(encoding_name(model))

    def tokens(text: str) -> int:
        return sum(int(encoding.count(part)) for part in _slices((text,), SLICE_CHARACTERS))

    total = tokens(_STRING.sub(b'""', body).decode())
    for found in _STRING.finditer(body):
        escaped = found[1].decode()
        decoded = orjson.loads(found[0]) if "\\" in escaped else ""
        total += max(tokens(escaped), tokens(decoded))
    return max(total, tokens(body.decode()))


def _truncate(model: str, text: str, max_tokens: int) -> str:
    encoding = _encoding(encoding_name(model))
    encoded = encoding.encode(text)
    if len(encoded) <= max_tokens:
        return text
    for end in range(max_tokens, max(0, max_tokens - MAX_CHARACTER_BYTES), -1):
        with suppress(ValueError):  # the last token ends inside a character: drop it
            return str(encoding.decode(encoded[:end]))
    return ""


@cache
def _thread(purpose: str) -> ThreadPoolExecutor:
    """One thread for the callers' inputs, another for the models' outputs."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"tokenizer-{purpose}")


_loaded: set[str] = set()


@cache
def _encoding(name: str) -> "PyTokenizer":
    encoding = _bindings().tokenizer_for_encoding(name)
    _loaded.add(name)
    return encoding


@cache
def _bindings() -> Any:
    """The compiled tokenizer of `bpe-openai`, without the package around it, which would build 70 MB of tables at its
    import. It maps the vocabularies from its file, so that several processes share a half of their memory.
    """
    package = find_spec("bpe_openai")
    spec = PathFinder.find_spec("_bindings", package.submodule_search_locations) if package is not None else None
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
