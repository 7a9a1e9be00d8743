"""The tokenizer: exact counts, sampled counts of long texts, and upper bounds of JSON."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from bpe_openai import _bindings
from hypothesis import given, settings
from hypothesis import strategies as st

from support.deadlines import TEST_DEADLINE_S
from support.depth import examples
from tollkeeper.providers import tokenizer
from tollkeeper.providers.tokenizer import DEFAULT_ENCODING, bound, count, encoding_name

MODELS = {"gpt-4o": "o200k_base", "gpt-4": "cl100k_base"}
SAMPLING_TOLERANCE = 0.25
KNOWN = [
    "gpt-4o-mini",
    "gpt-4.1",
    "gpt-5",
    "gpt-5.2-pro",
    "o1",
    "o4-mini",
    "gpt-3.5-turbo",
    "gpt-35-turbo",
    "ft:gpt-4o:us::1",
]
UNKNOWN = [
    "claude-sonnet-4-5",
    "llama3.2",
    "gpt-neox-20b",
    "gpt-2",
    "gpt-6",
    "gpt-oss-20b",
    "gpt-4all-j",
    "openai/gpt-4o",
    "o5",
]
OLDER = [
    "gpt-4",
    "gpt-4-turbo",
    "gpt-3.5-turbo",
    "gpt-35-turbo",
    "ft:gpt-3.5-turbo:us::1",
    "ft:gpt-4:us::1",
    "text-embedding-3-small",
]
ESCAPED = [r"\rightarrow", r"\newline", r"\forall", r"\ucfaf", r"\base", r"\brief"]
"""JSON escapes with fewer tokens than the text that they stand for, because a backslash merges with what follows."""
UNESCAPED = [json.loads(f'"{written}"') for written in ESCAPED]
FRAGMENTS = [*ESCAPED, *UNESCAPED, "\r", "\n", "\\", '"', "é", "☃", "😀", " word", "a"]
STRINGS = st.text(max_size=20) | st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join)
DOCUMENTS = st.recursive(
    STRINGS | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(STRINGS, inner, max_size=4),
    max_leaves=30,
)


def tokens(model: str, text: str) -> int:
    return int(_bindings.tokenizer_for_encoding(MODELS[model]).count(text))


def strings_in(value: Any) -> Iterator[str]:
    """The strings in a document, including keys."""
    match value:
        case str():
            yield value
        case list():
            for one in value:
                yield from strings_in(one)
        case dict():
            for key, one in value.items():
                yield key
                yield from strings_in(one)


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=examples(150), deadline=None)
@given(document=DOCUMENTS, ascii_only=st.booleans(), packed=st.booleans())
async def test_the_bound_is_never_below_the_tokens_of_the_json_or_of_its_strings(
    model: str, document: Any, ascii_only: bool, packed: bool
) -> None:
    written = json.dumps(document, ensure_ascii=ascii_only, separators=(",", ":") if packed else None)
    bounded = await bound(model, written.encode())
    assert bounded is not None
    assert bounded >= sum(tokens(model, text) for text in strings_in(document))
    assert bounded >= tokens(model, written)


@pytest.mark.parametrize("unescaped", UNESCAPED)
async def test_the_bound_of_an_escape_with_fewer_tokens_than_its_text_is_that_of_the_text(unescaped: str) -> None:
    text = unescaped * 500
    assert max(tokens(model, text) - tokens(model, json.dumps(text)) for model in MODELS) > 400
    for model in MODELS:
        bounded = await bound(model, json.dumps({"content": text}).encode())
        assert bounded is not None
        assert bounded >= tokens(model, text)


@pytest.mark.parametrize("model", MODELS)
async def test_the_bound_of_many_short_strings_is_that_of_the_json(model: str) -> None:
    """The separators between short strings are more tokens than the strings."""
    written = json.dumps(["a"] * 200, separators=(",", ":"))
    bounded = await bound(model, written.encode())
    assert bounded is not None
    assert bounded >= tokens(model, written)


@pytest.mark.parametrize("model", UNKNOWN)
async def test_a_model_with_an_unknown_vocabulary_has_no_bound(model: str) -> None:
    assert await bound(model, b'{"content":"hello"}') is None


@pytest.mark.parametrize("model", KNOWN)
async def test_a_model_with_a_known_vocabulary_has_a_bound(model: str) -> None:
    bounded = await bound(model, b'{"content":"hello"}')
    assert bounded is not None
    assert bounded >= 5


async def test_a_large_body_has_no_token_bound() -> None:
    body = b'"' + b" word" * 200_000 + b'"'
    assert len(body) > tokenizer.MAX_BOUNDED_BYTES
    assert await bound("gpt-4o", body) is None


@pytest.mark.parametrize("model", OLDER)
def test_older_models_use_the_older_vocabulary(model: str) -> None:
    assert encoding_name(model) == "cl100k_base"


@pytest.mark.parametrize(
    "model", ["gpt-4o", "gpt-4.1", "gpt-5", "o3", "chatgpt-4o-latest", "ft:gpt-4o-mini", "claude", ""]
)
def test_all_other_models_use_the_newest_vocabulary(model: str) -> None:
    assert encoding_name(model) == DEFAULT_ENCODING == "o200k_base"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "text", ["", "hello", "The quick brown fox. " * 20, "The quick brown fox. " * 1000, "☃é😀" * 500]
)
async def test_a_short_text_is_counted_exactly(model: str, text: str) -> None:
    assert len(text) < tokenizer.SLICE_CHARACTERS
    assert await count(model, (text, text)) == 2 * tokens(model, text)
    assert await count(model, (text,), output=True) == tokens(model, text)


SPACES, WORDS = " " * 270_000, " word" * 120_000


@pytest.mark.parametrize("texts", [(SPACES, WORDS), (WORDS, SPACES), (SPACES + WORDS,), (WORDS + SPACES,)])
async def test_a_long_text_is_sampled_over_its_whole_length(texts: tuple[str, ...]) -> None:
    """The text is uneven: words have 5 characters a token, white space about 128."""
    exact = 120_000 + 270_000 // 128
    assert abs(await count("gpt-4o", texts) - exact) < SAMPLING_TOLERANCE * exact


async def test_short_texts_and_a_long_text_are_counted_together() -> None:
    """Texts are not joined: a token never spans two of them."""
    short, long = ("a",) * 300_000, WORDS[:300_000]
    exact = 300_000 + 60_000
    assert abs(await count("gpt-4o", (*short, long)) - exact) < SAMPLING_TOLERANCE * exact


@contextmanager
def input_thread_is_busy() -> Iterator[None]:
    """Occupies the thread that counts long input."""
    started, done = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        done.wait()

    working = tokenizer._thread("input").submit(work)
    try:
        started.wait()
        yield
    finally:
        done.set()
        working.result()


async def test_a_short_text_is_counted_while_long_input_is_counted() -> None:
    await count("gpt-4o", ("load the vocabulary",))
    with input_thread_is_busy():
        async with asyncio.timeout(TEST_DEADLINE_S):
            assert await count("gpt-4o", ("hello",)) == 1


async def test_output_is_counted_and_truncated_while_long_input_is_counted() -> None:
    answer = " word" * 2000
    with input_thread_is_busy():
        async with asyncio.timeout(TEST_DEADLINE_S):
            assert await count("gpt-4o", (answer,), output=True) == 2000
            assert await tokenizer.truncate("gpt-4o", answer, 3) == " word" * 3


@pytest.mark.parametrize("model", MODELS)
def test_a_count_loads_one_vocabulary_and_not_the_package_around_it(model: str) -> None:
    """Each vocabulary takes 30 to 70 MB, and the package builds tables of another 70 MB."""
    program = f"""
import asyncio, sys
from tollkeeper.providers import tokenizer

assert tokenizer._loaded == set()
assert asyncio.run(tokenizer.count("{model}", ("hello world",))) == 2
assert tokenizer._loaded == {{"{MODELS[model]}"}}
assert "bpe_openai" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=TEST_DEADLINE_S)
