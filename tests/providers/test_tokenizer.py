"""Counting: exact where it can be, close where a text is long, and what is called a bound is one."""

import asyncio
import json
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
CLOSE = 0.25
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
ESCAPES = [r"\rightarrow", r"\newline", r"\forall", r"\ucfaf", r"\base", r"\brief"]
"""In JSON these are fewer tokens than what a model reads: a backslash merges with what follows it."""
SAID = [json.loads(f'"{written}"') for written in ESCAPES]
FRAGMENTS = [*ESCAPES, *SAID, "\r", "\n", "\\", '"', "é", "☃", "😀", " word", "a"]
STRINGS = st.text(max_size=20) | st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join)
DOCUMENTS = st.recursive(
    STRINGS | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(STRINGS, inner, max_size=4),
    max_leaves=30,
)


def tokens(model: str, text: str) -> int:
    return int(_bindings.tokenizer_for_encoding(MODELS[model]).count(text))


def strings_in(value: Any) -> Iterator[str]:
    """Keys too."""
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
async def test_the_bound_is_never_less_than_what_the_json_says_nor_than_the_json(
    model: str, document: Any, ascii_only: bool, packed: bool
) -> None:
    written = json.dumps(document, ensure_ascii=ascii_only, separators=(",", ":") if packed else None)
    bounded = await bound(model, written.encode())
    assert bounded is not None
    assert bounded >= sum(tokens(model, text) for text in strings_in(document))
    assert bounded >= tokens(model, written)


@pytest.mark.parametrize("said", SAID)
async def test_an_escape_that_is_fewer_tokens_in_json_than_in_the_text_is_bounded_by_the_text(said: str) -> None:
    text = said * 500
    assert max(tokens(model, text) - tokens(model, json.dumps(text)) for model in MODELS) > 400
    for model in MODELS:
        bounded = await bound(model, json.dumps({"content": text}).encode())
        assert bounded is not None
        assert bounded >= tokens(model, text)


@pytest.mark.parametrize("model", MODELS)
async def test_short_strings_side_by_side_are_bounded_by_the_json_that_parts_them(model: str) -> None:
    """Without the strings, what parts them would be fewer tokens."""
    written = json.dumps(["a"] * 200, separators=(",", ":"))
    bounded = await bound(model, written.encode())
    assert bounded is not None
    assert bounded >= tokens(model, written)


@pytest.mark.parametrize("model", UNKNOWN)
async def test_for_a_vocabulary_that_is_not_known_there_is_no_bound(model: str) -> None:
    assert await bound(model, b'{"content":"hello"}') is None


@pytest.mark.parametrize("model", KNOWN)
async def test_for_a_vocabulary_that_is_known_there_is_one(model: str) -> None:
    bounded = await bound(model, b'{"content":"hello"}')
    assert bounded is not None
    assert bounded >= 5


async def test_a_large_body_has_no_bound_but_its_bytes() -> None:
    body = b'"' + b" word" * 200_000 + b'"'
    assert len(body) > tokenizer.MAX_BOUNDED_BYTES
    assert await bound("gpt-4o", body) is None


@pytest.mark.parametrize("model", OLDER)
def test_older_models_have_the_older_vocabulary(model: str) -> None:
    assert encoding_name(model) == "cl100k_base"


@pytest.mark.parametrize(
    "model", ["gpt-4o", "gpt-4.1", "gpt-5", "o3", "chatgpt-4o-latest", "ft:gpt-4o-mini", "claude", ""]
)
def test_all_others_have_the_best_at_hand(model: str) -> None:
    assert encoding_name(model) == DEFAULT_ENCODING == "o200k_base"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "text", ["", "hello", "The quick brown fox. " * 20, "The quick brown fox. " * 1000, "☃é😀" * 500]
)
async def test_a_text_that_is_not_long_is_counted_exactly(model: str, text: str) -> None:
    assert len(text) < tokenizer.SLICE_CHARACTERS
    assert await count(model, (text, text)) == 2 * tokens(model, text)
    assert await count(model, (text,), output=True) == tokens(model, text)


SPACES, WORDS = " " * 270_000, " word" * 120_000


@pytest.mark.parametrize("texts", [(SPACES, WORDS), (WORDS, SPACES), (SPACES + WORDS,), (WORDS + SPACES,)])
async def test_a_long_text_is_sampled_over_all_of_its_length(texts: tuple[str, ...]) -> None:
    """Wherever the tokens are: white space is a hundred characters a token."""
    exact = 120_000 + 270_000 // 128
    assert abs(await count("gpt-4o", texts) - exact) < CLOSE * exact


async def test_many_short_texts_and_a_long_one_each_count_for_what_they_are() -> None:
    """However many there are, nothing of one runs together with the next."""
    short, long = ("a",) * 300_000, WORDS[:300_000]
    exact = 300_000 + 60_000
    assert abs(await count("gpt-4o", (*short, long)) - exact) < CLOSE * exact


@contextmanager
def busy_with_input() -> Iterator[None]:
    """Somebody's long input is being counted all the while."""
    begun, done = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        done.wait()

    working = tokenizer._thread("input").submit(work)
    try:
        begun.wait()
        yield
    finally:
        done.set()
        working.result()


async def test_what_is_little_is_counted_while_much_is() -> None:
    await count("gpt-4o", ("so that the vocabulary is there",))
    with busy_with_input():
        async with asyncio.timeout(TEST_DEADLINE_S):
            assert await count("gpt-4o", ("hello",)) == 1


async def test_answers_are_counted_and_cut_while_input_is_counted() -> None:
    answer = " word" * 2000
    with busy_with_input():
        async with asyncio.timeout(TEST_DEADLINE_S):
            assert await count("gpt-4o", (answer,), output=True) == 2000
            assert await tokenizer.truncate("gpt-4o", answer, 3) == " word" * 3
