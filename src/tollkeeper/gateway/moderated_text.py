"""A streamed text that is checked before it is sent: what is held back, and what may go."""

import re
from collections.abc import Callable, Sequence

from tollkeeper.moderation.folding import padding_of
from tollkeeper.moderation.policy import CASELESS_SCRIPTS, Rule, SurfacePolicy
from tollkeeper.moderation.scan import Finding, redactions, replace_findings, scan

MAX_HELD_CHARS = 4_096
"""What is held back at most for the end of a word or of a sentence, beyond the window."""
RESCANNED_SHARE, RESCANNED_CHARS = 16, 64
"""A text is searched again when it has grown by this part of it, less so many characters: so a long one that is held
back does not take quadratic time, and a short one is searched with each piece.
"""
LONGEST_END = 8
"""Characters of the end of a sentence, as it is found across pieces."""
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*\s|[。！？]|\n")


def mask(label: str, _value: str) -> str:
    """What stands in the place of what a rule redacts in an answer."""
    return f"[{label}]"


class HeldText:
    """One run of text in a stream. `note` receives what the rules have found, each finding once.

    A match that is longer than the window may have begun before what is held back: of it, only the rest is found.
    """

    def __init__(self, policy: SurfacePolicy, note: Callable[[Sequence[Finding]], None], *, follows: str = "") -> None:
        self._rules: Sequence[Rule] = policy.output_rules
        self._by_sentence = policy.window.unit == "sentence"
        self._window = policy.window_chars
        self._holds_all = policy.holds_all
        self._note = note
        self.sent = follows
        """The end of what was let go, before any replacement: what follows is searched together with it."""
        self._is_begin = bool(follows)
        """Whether nothing was let go yet of this run, which may be shown apart from the one that it follows."""
        self._held: list[str] = []
        self._held_chars = 0
        self._missing_chars = 0
        """How many more are to be held before they are searched."""
        self._has_sentence = False
        """Whether a sentence may have ended in a piece that was not searched yet."""

    def feed(self, text: str) -> None:
        """Hold a piece of text back."""
        if self._by_sentence and not self._has_sentence:
            before = self._held[-1][-LONGEST_END:] if self._held else ""
            self._has_sentence = _SENTENCE_END.search(before + text) is not None
        self._missing_chars -= len(text)
        self._held.append(text)
        self._held_chars += len(text)

    def take(self, *, final: bool = False) -> tuple[str, Finding | None]:
        """What of the text may be sent now, and a finding that blocks all of it. `final`: the text is complete."""
        if not final and not self._may_pass():
            return "", None
        before = len(self.sent)
        text = self.sent + "".join(self._held)
        self._missing_chars = len(text) // RESCANNED_SHARE - RESCANNED_CHARS
        self._has_sentence = False
        found = self._find(text, before)
        blocked = next((one for one in found if one.rule.is_enforced and one.rule.action == "block"), None)
        if blocked is not None:
            self._note([one for one in found if one.rule is blocked.rule])
            return "", blocked
        cut = len(text) if final else self._cut(text, found)
        if cut <= before:
            self._held = [text[before:]]
            return "", None
        self._is_begin = False
        passed = [one._replace(start=max(one.start, before)) for one in found if one.end <= cut]
        self._note(passed)
        wanted = redactions(passed)
        released = text[before:cut]
        if wanted:
            shifted = [one._replace(start=one.start - before, end=one.end - before) for one in wanted]
            released = replace_findings(released, shifted, mask)
        self.sent = text[max(0, cut - self._window_in(text)) : cut]
        self._held, self._held_chars = [text[cut:]], len(text) - cut
        return released, None

    def _find(self, text: str, before: int) -> list[Finding]:
        """What the rules find that ends after `before`."""
        found = [one for one in scan(self._rules, text) if one.end > before]
        if self._is_begin:
            apart = scan(self._rules, text[before:])
            shifted = [one._replace(start=one.start + before, end=one.end + before) for one in apart]
            found += [one for one in shifted if one not in found]
        return found

    def _may_pass(self) -> bool:
        """Whether any of the text can be let go before it is complete: else it need not be searched yet."""
        if self._holds_all or self._missing_chars > 0:
            return False
        if self._held_chars > self._window + MAX_HELD_CHARS:
            return True
        return self._has_sentence if self._by_sentence else self._held_chars > self._window

    def _cut(self, text: str, found: Sequence[Finding]) -> int:
        """Where the text may be cut: so that the window is held back, and no word, sentence or finding is divided."""
        limit = len(text) - self._window_in(text)
        cut = self._end_of_sentence(text, limit) if self._by_sentence else _end_of_word(text, limit)
        if cut == 0 and self._held_chars > self._window + MAX_HELD_CHARS:
            cut = limit
        for one in sorted(found, key=lambda one: -one.start):
            if one.start < cut < one.end:
                cut = one.start
        return cut

    def _window_in(self, text: str) -> int:
        """The characters of the window, without those that are not seen: they would push a match out of it."""
        return self._window + min(padding_of(text), MAX_HELD_CHARS)

    def _end_of_sentence(self, text: str, limit: int) -> int:
        """After the last sentence that is complete. The window need not be held back beyond it."""
        ends = [match.end() for match in _SENTENCE_END.finditer(text)]
        if ends and ends[-1] > len(self.sent):
            return ends[-1]
        return _end_of_word(text, limit) if self._held_chars > self._window + MAX_HELD_CHARS else 0


def _end_of_word(text: str, limit: int) -> int:
    """The last place up to `limit` after a space, or after a character of a script without spaces; 0 without one."""
    for position in range(limit, max(0, limit - MAX_HELD_CHARS), -1):
        if text[position - 1].isspace() or ord(text[position - 1]) >= CASELESS_SCRIPTS:
            return position
    return 0
