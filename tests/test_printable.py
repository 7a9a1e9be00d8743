"""Which names are printable, and how other characters are shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollkeeper.printable import escape_unprintable, require_printable, unprintable_character

BIDIRECTIONAL = [*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A)), "\u200e", "\u200f", "\u061c"]
CONTROLS = [*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), "\u2028", "\u2029"]


@pytest.mark.parametrize("character", [*BIDIRECTIONAL, *CONTROLS, "\ud800", "\u200b"], ids=ascii)
def test_controls_and_invisible_characters_are_named_and_escaped(character: str) -> None:
    text = f"a{character}b"
    found = unprintable_character(text)
    assert found is not None
    assert found.startswith(f"U+{ord(character):04X} (")
    with pytest.raises(ValueError, match=f"U\\+{ord(character):04X}"):
        require_printable(text)
    escaped = escape_unprintable(text)
    assert escaped.isprintable()
    assert escaped.encode().decode("unicode_escape") == text


def test_an_error_names_the_first_character_that_is_not_printable() -> None:
    assert unprintable_character("a\u202eb\x1b") == "U+202E (RIGHT-TO-LEFT OVERRIDE)"
    assert unprintable_character("a\x1b[0m") == "U+001B (CONTROL CHARACTER)"
    assert unprintable_character("\ue000") == "U+E000 (UNNAMED)"


def test_escapes_are_as_short_as_in_python() -> None:
    assert escape_unprintable("\x1b[31m\u202e\U000e0041\n") == "\\x1b[31m\\u202e\\U000e0041\\x0a"


@pytest.mark.parametrize("name", ["acme", "gpt-4o:latest", "B\u00fccher & S\u00f6hne", "\u682a\u5f0f\u4f1a\u793e", ""])
def test_letters_of_any_script_are_printable(name: str) -> None:
    assert unprintable_character(name) is None
    assert require_printable(name) == escape_unprintable(name) == name


@given(st.text())
def test_escaped_text_is_printable(text: str) -> None:
    assert escape_unprintable(text).isprintable()
