"""Printable text: the rule for names, and escapes for output.

Printable is what `str.isprintable` says: letters, digits, marks, symbols and the space; no control, no ESC, no
character that changes the direction of the text around it, and none that is invisible.
"""

import unicodedata


def unprintable_character(text: str) -> str | None:
    """Returns the first character that is not printable, as `U+202E (RIGHT-TO-LEFT OVERRIDE)`; None: there is none."""
    if text.isprintable():
        return None
    found = next(character for character in text if not character.isprintable())
    name = "CONTROL CHARACTER" if unicodedata.category(found) == "Cc" else unicodedata.name(found, "UNNAMED")
    return f"U+{ord(found):04X} ({name})"


def require_printable(text: str) -> str:
    """Returns the text. Raises ValueError, which names the character, for one that is not printable."""
    if (found := unprintable_character(text)) is not None:
        raise ValueError(f"has the character {found}, which is not printable")
    return text


def escape_unprintable(text: str) -> str:
    r"""Returns the text with escapes, such as \x1b or \u202e, in place of the characters that are not printable."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escape(ord(character)) for character in text)


def _escape(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
