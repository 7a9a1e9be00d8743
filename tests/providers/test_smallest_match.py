"""A text for a regular expression: it matches, and an expression with anything else is refused."""

import time

import jsonschema_rs
import pytest

from tollkeeper.errors import InvalidRequest
from tollkeeper.providers.json_schema import Budget, NoValue
from tollkeeper.providers.smallest_match import MAX_GROUPS, smallest_match


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("", ""),
        ("^abc$", "abc"),
        ("a*b+c?", "b"),
        ("a+?", "a"),
        ("^(ab|cd){2}$", "abab"),
        ("(?:x|y)z", "xz"),
        ("^|a", ""),
        (r"^\d{4}-\d{2}$", "0000-00"),
        (r"\w\s\.\/\-", "a ./-"),
        (r"^[a-f0-9]{3,}$", "aaa"),
        ("[-a]", "-"),
        ("[a-]", "a"),
        ("[]a]", "]"),
        (r"[\d_]", "0"),
        (r"[\]x]", "]"),
        ("^[^x]$", "0"),
        (r"[^\w ]", "-"),
        ("^.{3}$", "xxx"),
        ("^(a+)+$", "a"),
        ("é", "é"),
    ],
)
def test_the_text_matches(pattern: str, text: str) -> None:
    assert smallest_match(pattern, Budget()) == text
    if pattern != "[]a]":  # another meaning in the regular expressions of JavaScript
        assert jsonschema_rs.is_valid({"pattern": pattern}, text)


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "(?=a)",
            "(?!a)",
            "(?<=a)b",
            r"(a)\1",
            r"\bx",
            r"\p{L}",
            r"\u0041",
            "a^",
            "$a",
            "(^a)",
            "a**",
            "*a",
            "a{",
            "a{x}",
        ),
        *("a{,3}", "a{999999999}", "(a", "a)", "[a", "[z-a]", r"[\d-z]", "[[:alpha:]]", "]", "}", "\\", r"[^\w\s.é-]"),
        "(" * (MAX_GROUPS + 1) + ")" * (MAX_GROUPS + 1),
    ],
)
def test_any_other_expression_is_refused(pattern: str) -> None:
    with pytest.raises(NoValue):
        smallest_match(pattern, Budget())


@pytest.mark.parametrize("pattern", ["a" * 10**6, "(((a{999}){999}){999}){999}", "[" + "a" * 10**6, "(" * 10**6])
def test_a_long_expression_or_text_is_refused_soon(pattern: str) -> None:
    started = time.process_time()
    with pytest.raises((InvalidRequest, NoValue)):
        smallest_match(pattern, Budget())
    assert time.process_time() - started < 1
