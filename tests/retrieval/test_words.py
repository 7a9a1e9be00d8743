"""How texts are compared by their words."""

from hypothesis import given
from hypothesis import strategies as st

from tollkeeper.retrieval.fusion import fuse
from tollkeeper.retrieval.words import MAX_QUERY_WORDS, query_words, share_of, words_of


def test_words_are_compared_without_case_plural_or_form_of_letters() -> None:
    assert list(words_of("Warranties of the COMPRESSORS, boxes & ﬁles")) == ["warranty", "compressor", "boxe", "file"]
    assert list(words_of("boxes box status class gas as")) == ["boxe", "box", "status", "class", "ga"]
    assert list(words_of("保証は7年")) == list("保証は7年")


def test_the_words_of_a_question_are_different_and_few() -> None:
    assert query_words("what is the warranty, warranty or warranties?") == ["warranty"]
    assert len(query_words(" ".join(f"w{number}x" for number in range(1_000)))) == MAX_QUERY_WORDS


def test_the_share_is_that_of_the_wanted_words() -> None:
    assert share_of(["warranty", "compressor"], "The warranties end.") == 0.5
    assert share_of([], "anything") == 0


@given(st.text())
def test_any_text_has_words_that_an_index_takes(text: str) -> None:
    for word in words_of(text):
        assert word
        assert len(word) <= 61
        assert not word.isspace()


def test_fusion_prefers_what_several_rankings_have_near_the_top() -> None:
    assert fuse(["a", "b", "c"], ["b", "d"]) == ["b", "a", "d", "c"]
    assert fuse([], []) == []
