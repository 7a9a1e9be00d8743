"""The detectors: what they find, what they leave alone, and that their time is bounded."""

import string
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollkeeper.moderation import patterns, pii
from tollkeeper.moderation.patterns import SLICE_CHARS, TooDense
from tollkeeper.moderation.pii import DETECTORS

FOUND = {
    "email": [
        "ada@example.com",
        "müller@exämple.de",
        "a.b+c@sub.example.co.uk",
        "o'neil@example.org",
        "x@xn--bcher-kva.example",
    ],
    "phone": [
        "+49 30 1234567",
        "+1-415-555-2671",
        "0049 171 1234567",
        "(415) 555-2671",
        "415-555-2671",
        "030 12345678",
    ],
    "iban": [
        "DE89 3704 0044 0532 0130 00",
        "DE89370400440532013000",
        "GB82WEST12345698765432",
        "NO93 8601 1117 947",
        "MT84MALT011000012345MTLCAST001S",
        "gb82 west 1234 5698 7654 32",
    ],
    "card": ["4111 1111 1111 1111", "5500-0000-0000-0004", "378282246310005", "4222222222222"],
    "secret": [
        "sk-proj-abcdefghij0123456789xyz",
        "sk-ant-" + "a1B2c3D4" * 3,
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_0123456789abcdefghijklmnopqrstuvwxyz",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N",
        "-----BEGIN RSA PRIVATE KEY-----",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    ],
}
"""Example numbers are those of the standards' and issuers' own documentation."""
LEFT_ALONE = {
    "email": ["a@b", "@example.com", "ada@", "x@y.1", "@" * 50, f"{'a' * 65}@example.com"],
    "phone": ["2024-01-02 10:20", "192.168.100.200", "1234567890", "12.345.678", "version 1.2.3", "+12"],
    "iban": ["DE88 3704 0044 0532 0130 00", "ZZ89370400440532013000", "DE89", "XDE89370400440532013000"],
    "card": ["4111 1111 1111 1112", "1234567812345670", "0000 0000 0000 0000", "411111111111111", "x4111111111111111"],
    "secret": [
        "3f786850e387550fdab836ed7e6dc881de23001b",
        "/usr/local/lib/python3.11/site-packages/foo/baz",
        "ThisIsAVeryLongCamelCaseIdentifierName",
        "sk-short",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaA1",
    ],
}


@pytest.mark.parametrize("kind", FOUND)
def test_a_detector_finds_these_within_a_sentence(kind: str) -> None:
    for value in FOUND[kind]:
        for text in (value, f"It is {value}, or so.", f"({value})", f"{value}\n{value}"):
            spans = list(DETECTORS[kind](text))
            assert [text[start:end] for start, end in spans] == [value] * text.count(value), text


@pytest.mark.parametrize("kind", LEFT_ALONE)
def test_a_detector_leaves_these_alone(kind: str) -> None:
    for text in LEFT_ALONE[kind]:
        assert list(DETECTORS[kind](text)) == [], text


@pytest.mark.parametrize("kind", FOUND)
def test_a_detector_finds_what_lies_at_a_border_of_two_slices(kind: str) -> None:
    value = FOUND[kind][0]
    for offset in (1, len(value) // 2, len(value)):
        text = f"{'word ' * ((SLICE_CHARS - offset) // 5)}{value} and more {'word ' * 2_000}"
        text = text.rjust(len(text) + (SLICE_CHARS - offset) % 5)
        assert [text[start:end] for start, end in DETECTORS[kind](text)] == [value]


def test_numbers_of_cards_that_follow_one_another_are_all_found() -> None:
    text = "4111 1111 1111 1111 5500 0000 0000 0004 12 27 378282246310005 99"
    spans = list(DETECTORS["card"](text))
    assert [text[start:end] for start, end in spans] == [
        "4111 1111 1111 1111",
        "5500 0000 0000 0004",
        "378282246310005",
    ]


def test_data_in_base64_is_no_secret_however_long_it_is() -> None:
    rng = Random(7)
    data = "".join(rng.choices(string.ascii_letters + string.digits + "+/", k=2 * SLICE_CHARS + 4_300))
    assert list(DETECTORS["secret"](data)) == []


@pytest.mark.parametrize("kind", ["email", "iban", "card", "phone"])
def test_a_text_of_nothing_but_candidates_is_given_up(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At fewer candidates than the real limit, which takes seconds to reach."""
    for module in (patterns, pii):
        monkeypatch.setattr(module, "MAX_CANDIDATES", 1_000)
    dense = {"email": "a@a.bc ", "iban": "DE89 ", "card": "4111111111111112, ", "phone": "+4930123456 "}[kind]
    list(DETECTORS[kind](dense * 300))
    with pytest.raises(TooDense):
        list(DETECTORS[kind](dense * 1_001))


@given(st.text(alphabet=string.printable + "äß漢", max_size=300), st.sampled_from(sorted(DETECTORS)))
def test_spans_are_in_order_and_within_the_text(text: str, kind: str) -> None:
    spans = list(DETECTORS[kind](text))
    assert all(0 <= start < end <= len(text) for start, end in spans)
    if kind != "secret":
        assert all(one[1] <= other[0] for one, other in pairwise(spans))
