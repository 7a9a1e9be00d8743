"""A stream is cut when it is surely too long, and its text is tokenized only where words cannot tell."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.depth import examples
from tollkeeper.chat import ReasoningDelta, TextDelta, ToolCallDelta
from tollkeeper.gateway.accumulator import StreamAccumulator
from tollkeeper.gateway.length_check import BYTES_PER_TOKEN, MAX_SPLIT_CHARS, MIN_UNCHECKED_BYTES, LengthCheck
from tollkeeper.providers import tokenizer


class CountingProvider:
    """Counts with the real tokenizer, and records what it counted."""

    def __init__(self) -> None:
        self.counted: list[str] = []

    async def count_output(self, text: str) -> int:
        self.counted.append(text)
        return await tokenizer.count(tokenizer.DEFAULT_ENCODING, (text,), output=True)


def check_of(allowed: int) -> tuple[StreamAccumulator, LengthCheck, CountingProvider]:
    received, provider = StreamAccumulator(), CountingProvider()
    counting: Any = provider
    return received, LengthCheck(received, counting, lambda: allowed), provider


async def first_cut(pieces: list[str], allowed: int) -> tuple[int | None, CountingProvider]:
    """After which piece the stream is cut; None if it is not."""
    received, check, provider = check_of(allowed)
    for number, piece in enumerate(pieces):
        received.add((TextDelta(piece),))
        if check.is_due and await check.is_too_long():
            return number, provider
    return None, provider


async def test_ordinary_text_within_its_limit_is_never_tokenized() -> None:
    words = ["The quick brown fox jumps over the lazy dog. "] * 100  # ten tokens each, 45 bytes
    cut, provider = await first_cut(words, 1_000)
    assert (cut, provider.counted) == (None, [])


async def test_more_words_than_allowed_tokens_are_counted_and_cut() -> None:
    cut, provider = await first_cut(["word "] * 200, 100)
    assert cut is not None
    assert 100 <= cut < 100 + 13 + 1  # a check is due at least every 64 bytes
    assert provider.counted


async def test_words_that_share_tokens_are_not_cut() -> None:
    """In o200k_base, the end of a comment and the begin of the next one are one token."""
    text = "//\n" * 500
    tokens = await tokenizer.count(tokenizer.DEFAULT_ENCODING, (text,), output=True)
    assert tokens < 300
    cut, _ = await first_cut([text[place : place + 30] for place in range(0, len(text), 30)], tokens + 60)
    assert cut is None


@pytest.mark.parametrize("piece", ["7f3a", "?!", "\u4e2d\u6587", "\U0001f600", "QmFzZTY0"])
async def test_text_without_words_is_cut_soon_after_its_limit(piece: str) -> None:
    cut, provider = await first_cut([piece] * 1_000, 200)
    assert cut is not None
    assert provider.counted
    tokens = await tokenizer.count(tokenizer.DEFAULT_ENCODING, (piece * (cut + 1),), output=True)
    assert tokens <= 200 + MIN_UNCHECKED_BYTES


async def test_a_word_in_several_pieces_is_one_word() -> None:
    received, check, provider = check_of(100)
    for _ in range(40):
        for letter in "abcdefgh ":
            received.add((TextDelta(letter),))
            assert not (check.is_due and await check.is_too_long())
    assert provider.counted == []


async def test_all_kinds_of_text_count() -> None:
    received, check, _ = check_of(10)
    received.add((TextDelta("a b c d "), ReasoningDelta("e f g h "), ToolCallDelta(0, "c", "f", "i j k l m n ")))
    assert check.is_due
    assert await check.is_too_long()


async def test_a_huge_piece_is_counted_and_not_split() -> None:
    received, check, provider = check_of(MAX_SPLIT_CHARS)
    received.add((TextDelta("a" * (MAX_SPLIT_CHARS + 1)),))
    assert not await check.is_too_long()
    assert len(provider.counted) == 1


@given(st.lists(st.text(max_size=30), max_size=60), st.integers(1, 60))
@settings(max_examples=examples(300), deadline=None)
async def test_only_text_with_more_tokens_than_allowed_is_cut(pieces: list[str], allowed: int) -> None:
    cut, _ = await first_cut(pieces, allowed)
    tokens = await tokenizer.count(tokenizer.DEFAULT_ENCODING, ("".join(pieces),), output=True)
    # a token count of pieces can be above that of the whole by one per piece
    assert cut is None or tokens + len(pieces) > allowed
    assert cut is not None or tokens <= BYTES_PER_TOKEN * allowed + 200
