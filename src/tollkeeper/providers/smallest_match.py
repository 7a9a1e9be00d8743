"""A short text that a regular expression matches, written from the expression. The expression is never run.

Read are literals, classes, groups, alternatives, quantifiers, and anchors at the ends.
"""

from tollkeeper.providers.json_schema import Budget, NoValue

MAX_GROUPS = 50
"""Groups within each other."""

_ESCAPED_CLASSES = {"d": [("0", "9")], "w": [("a", "z"), ("A", "Z"), ("0", "9"), ("_", "_")], "s": [(" ", " ")]}
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
_CANDIDATES = "x0 _-A.é"
"""Characters that are tried for a class that excludes some."""

Ranges = list[tuple[str, str]]


def smallest_match(pattern: str, budget: Budget) -> str:
    """The text: the first of several alternatives, the first character of a class, the least repetitions.

    Raises NoValue for an expression that has anything else, InvalidRequest beyond the budget.
    """
    reader = _Reader(pattern, budget)
    text = reader.alternatives(0)
    if reader.peek():
        raise NoValue
    return text


class _Reader:
    def __init__(self, pattern: str, budget: Budget) -> None:
        self._pattern = pattern
        self._at = 0
        self._budget = budget

    def peek(self) -> str:
        """The next character; empty at the end."""
        return self._pattern[self._at : self._at + 1]

    def alternatives(self, depth: int) -> str:
        """The text of the first alternative. All are read."""
        if depth > MAX_GROUPS:
            raise NoValue
        first = self._sequence(depth)
        while self.peek() == "|":
            self._at += 1
            self._sequence(depth)
        return first

    def _sequence(self, depth: int) -> str:
        pieces = []
        while (character := self.peek()) not in ("", "|", ")"):
            self._budget.spend()
            self._at += 1
            if character in "^$":
                self._check_anchor(character)
                continue
            piece = self._atom(character, depth)
            count = self._least_count()
            self._budget.spend_characters(len(piece) * count)
            pieces.append(piece * count)
        return "".join(pieces)

    def _check_anchor(self, anchor: str) -> None:
        """Only the ends of the expression can be anchored."""
        if (self._at != 1 if anchor == "^" else self.peek()) or self.peek() in ("*", "+", "?", "{"):
            raise NoValue

    def _atom(self, character: str, depth: int) -> str:
        match character:
            case "(":
                return self._group(depth)
            case "[":
                return self._class()
            case ".":
                return "x"
            case "\\":
                return self._escape()[0][0]
            case "*" | "+" | "?" | "{" | "}" | "]":
                raise NoValue
            case _:
                return character

    def _group(self, depth: int) -> str:
        if self.peek() == "?":
            if not self._pattern.startswith("?:", self._at):
                raise NoValue
            self._at += 2
        text = self.alternatives(depth + 1)
        self._expect(")")
        return text

    def _class(self) -> str:
        excludes = self.peek() == "^"
        self._at += excludes
        ranges: Ranges = []
        while (character := self.peek()) != "]" or not ranges:
            self._budget.spend()
            if character in ("", "["):
                raise NoValue
            self._at += 1
            found = self._escape() if character == "\\" else [(character, character)]
            if self.peek() == "-" and self._pattern[self._at + 1 : self._at + 2] not in ("", "]"):
                self._at += 1
                found = self._range(found)
            ranges += found
        self._at += 1
        if not excludes:
            return ranges[0][0]
        self._budget.spend(len(ranges))
        free = [one for one in _CANDIDATES if not any(low <= one <= high for low, high in ranges)]
        if not free:
            raise NoValue
        return free[0]

    def _range(self, low: Ranges) -> Ranges:
        character = self.peek()
        self._at += 1
        high = self._escape() if character == "\\" else [(character, character)]
        if any(first != last for first, last in (*low, *high)) or low[0][0] > high[0][0]:
            raise NoValue
        return [(low[0][0], high[0][0])]

    def _escape(self) -> Ranges:
        character = self.peek()
        self._at += 1
        if character in _ESCAPED_CLASSES:
            return _ESCAPED_CLASSES[character]
        if character in _CONTROLS:
            return [(_CONTROLS[character], _CONTROLS[character])]
        if not character or character.isalnum():
            raise NoValue
        return [(character, character)]

    def _least_count(self) -> int:
        """The least repetitions of what was just read."""
        count = 1
        quantifier = self.peek()
        if quantifier in ("*", "+", "?") and quantifier:
            self._at += 1
            count = int(quantifier == "+")
        elif quantifier == "{":
            self._at += 1
            count = self._number()
            if self.peek() == ",":
                self._at += 1
                if self.peek() != "}":
                    self._number()
            self._expect("}")
        else:
            return count
        if self.peek() == "?":  # as few as possible, which matches the same texts
            self._at += 1
        return count

    def _number(self) -> int:
        start = self._at
        while self.peek() in "0123456789" and self.peek():
            self._at += 1
        if not 0 < self._at - start < 9:
            raise NoValue
        return int(self._pattern[start : self._at])

    def _expect(self, character: str) -> None:
        if self.peek() != character:
            raise NoValue
        self._at += 1
