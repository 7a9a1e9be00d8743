"""Reads a text as people read it: without characters that are not seen, and with one character for those that look
alike. Each place in what is read is a place in the text, so that rules find in it what they would not in the text.

Not seen are those of Unicode's default ignorable characters that texts can have (zero-width spaces and joiners, soft
hyphens, marks of direction, variation selectors). Alike are the Cyrillic and Greek letters that Unicode Technical
Standard 39 lists as confusable with a Latin letter, and what NFKC makes an ASCII character.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from types import MappingProxyType
from typing import NamedTuple

Span = tuple[int, int]
Find = Callable[[str], Iterator[Span]]

_UNSEEN = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff"
)
_MARKS = "\u0300-\u036f"
_LETTER = rf"[^\s{_UNSEEN}{_MARKS}](?:[{_UNSEEN}]*[{_MARKS}])+"
_PADDING = re.compile(rf"[\s{_UNSEEN}{_MARKS}]{{2,}}|[{_UNSEEN}{_MARKS}]")
_CONFUSABLE = (
    "АA ВB СC ЕE НH ІI ЈJ КK МM ОO РP ЅS ТT ХX УY ԌG ԜW аa сc еe ԁd һh іi јj оo рp ѕs хx уy ԛq ԝw ѵv"
    " ΑA ΒB ΕE ΖZ ΗH ΙI ΚK ΜM ΝN ΟO ΡP ΤT ΥY ΧX οo αa νv ρp ιi"
)
"""Pairs of a letter and the Latin one that it looks like."""
_COMPATIBLE = chain(
    (0xAA, 0xB2, 0xB3, 0xB9, 0xBA), range(0x2070, 0x2500), range(0xFF01, 0xFF5F), range(0x1D400, 0x1D800)
)
"""The code points that NFKC may make one ASCII character."""


_MATHEMATICAL = "[\U0001d400-\U0001d7ff]"
"""The compatible letters beyond the code points for which a set of `re` is a table."""


class _Segment(NamedTuple):
    """A part of what is read, which begins at `place`: as it is in the text from `start` on, or, with an `end`, one
    character for all between.
    """

    place: int
    start: int
    end: int | None


class Reading:
    """What is read of a text, and where each part of it is."""

    def __init__(self, text: str, segments: list[_Segment] | None) -> None:
        self.text = text
        self._segments = segments

    def span_of(self, start: int, end: int) -> Span:
        """The place in the text of what is read from `start` to `end`."""
        if self._segments is None:
            return start, end
        first, last = self._segment_at(start), self._segment_at(end - 1)
        begin = first.start if first.end is not None else first.start + start - first.place
        return begin, last.end if last.end is not None else last.start + end - last.place

    def _segment_at(self, place: int) -> _Segment:
        assert self._segments is not None
        return self._segments[bisect_right(self._segments, place, key=lambda one: one.place) - 1]


class Folder:
    """Reads texts: what `pattern` matches is read as one character or as none, and the others by the `table`. Of ASCII
    texts, only what `spaces` matches is read otherwise. With `letters`, a letter with marks is read as the one that
    they compose, or without those that do not.
    """

    def __init__(
        self, pattern: str, table: Mapping[str, str], *, letters: bool = False, spaces: str | None = None
    ) -> None:
        self._pattern = re.compile(pattern)
        self._with_letters = re.compile(f"{_LETTER}|{pattern}") if letters else self._pattern
        self._spaces = re.compile(spaces) if spaces is not None else None
        self._table = table
        self._alike = re.compile(_set_of(letter for letter in table if letter < "\U00010000") + "|" + _MATHEMATICAL)

    def read(self, text: str) -> Reading:
        if text.isascii() and (self._spaces is None or self._spaces.search(text) is None):
            return Reading(text, None)
        pieces: list[str] = []
        segments: list[_Segment] = []
        place = position = 0
        pattern = self._pattern if _ANY_MARK.search(text) is None else self._with_letters
        for match in pattern.finditer(text):
            start, end = match.span()
            if start > position:
                segments.append(_Segment(place, position, None))
                pieces.append(text[position:start])
                place += start - position
            if seen := _seen(match[0]):
                segments.append(_Segment(place, start, end))
                pieces.append(seen)
                place += 1
            position = end
        if not position:
            return Reading(self._plain(text), None)
        segments.append(_Segment(place, position, None))
        return Reading(self._plain("".join((*pieces, text[position:]))), segments)

    def _plain(self, text: str) -> str:
        return self._alike.sub(lambda match: self._table.get(match[0], match[0]), text)

    def finding(self, find: Find) -> Find:
        """Finds in a text what `find` finds in what is read of it."""

        def find_in(text: str) -> Iterator[Span]:
            reading = self.read(text)
            for start, end in find(reading.text):
                yield reading.span_of(start, end)

        return find_in


def padding_of(text: str) -> int:
    """How many characters of a text may be read as none."""
    return sum(len(one) for one in _PADDING.findall(text))


def _set_of(letters: Iterable[str]) -> str:
    return f"[{''.join(map(re.escape, letters))}]"


def _seen(part: str) -> str:
    """What is seen of a match of a folder's pattern: one character, or none."""
    if any(map(str.isspace, part)):
        return " "
    first = unicodedata.normalize("NFC", _ANY_UNSEEN.sub("", part))[:1]
    return "" if _ANY_MARK.match(first) is not None else first


_ANY_UNSEEN, _ANY_MARK = re.compile(f"[{_UNSEEN}]+"), re.compile(f"[{_MARKS}]")
_WIDTHS = MappingProxyType(
    {
        letter: compatible
        for letter in map(chr, _COMPATIBLE)
        if len(compatible := unicodedata.normalize("NFKC", letter)) == 1 and compatible.isascii()
    }
)
_ALIKE = MappingProxyType(_WIDTHS | {pair[0]: pair[1] for pair in _CONFUSABLE.split()})
WORDS = Folder(f"[{_UNSEEN}{_MARKS}]+", _ALIKE, letters=True)
PHRASES = Folder(
    rf"[\s{_UNSEEN}{_MARKS}]{{2,}}|[^\S ]|[{_UNSEEN}{_MARKS}]", _ALIKE, letters=True, spaces=r"\s{2,}|[^\S ]"
)
"""The same for words with spaces between them: any white space is read as one space."""
DATA = Folder(rf"[{_UNSEEN}]+", _WIDTHS)
"""For numbers and addresses, in which no letters look alike."""
