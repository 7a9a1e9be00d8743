"""What the rules of a policy find in a text, and the text with that replaced."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import orjson

from tollkeeper.moderation.policy import Rule

MAX_FINDINGS = 10_000
"""Findings of one call that are replaced. A text with more of them is refused."""

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*')
"""A string or a number of a JSON text (RFC 8259, 6 and 7)."""

Replace = Callable[[str, str], str]
"""Returns what stands in the place of a value, of which the label is given."""


class Finding(NamedTuple):
    """A place in a text that a rule has found."""

    rule: Rule
    label: str
    start: int
    end: int


class TooManyFindings(Exception):
    """More was found than is replaced."""


def scan(rules: Iterable[Rule], text: str) -> list[Finding]:
    """All that the rules find, rule by rule. Raises TooDense, TooManyFindings."""
    found: list[Finding] = []
    for rule in rules:
        for label, find in rule.finders:
            for start, end in find(text):
                found.append(Finding(rule, label, start, end))
                if len(found) > MAX_FINDINGS:
                    raise TooManyFindings
    return found


def count_by_rule(found: Iterable[Finding]) -> Counter[str]:
    """How much each rule has found, by its name."""
    return Counter(one.rule.name for one in found)


def first_block(found: Sequence[Finding]) -> Finding | None:
    """The first finding of a rule that blocks; None if there is none."""
    return next((one for one in found if one.rule.is_enforced and one.rule.action == "block"), None)


def redactions(found: Iterable[Finding]) -> list[Finding]:
    """The findings to be replaced, in the order of the text. Of those that overlap, one reaches over all."""
    wanted = sorted(
        (one for one in found if one.rule.is_enforced and one.rule.action == "redact"),
        key=lambda one: (one.start, -one.end),
    )
    merged: list[Finding] = []
    for one in wanted:
        if merged and one.start < merged[-1].end:
            merged[-1] = merged[-1]._replace(end=max(merged[-1].end, one.end))
        else:
            merged.append(one)
    return merged


def replace_findings(text: str, found: Sequence[Finding], replace: Replace) -> str:
    """The text with each of these findings replaced, which are in order and do not overlap."""
    pieces: list[str] = []
    position = 0
    for one in found:
        pieces += [text[position : one.start], replace(one.label, text[one.start : one.end])]
        position = one.end
    return "".join((*pieces, text[position:]))


def redact_text(rules: Sequence[Rule], text: str, replace: Replace) -> str:
    """The text without what the rules redact."""
    return replace_findings(text, redactions(scan(rules, text)), replace)


def map_json(text: str, change: Callable[[str], str]) -> str:
    """A JSON text with each of its strings and numbers changed; a changed number becomes a string.

    What is no JSON is changed as a text. The text is read token by token, so its depth has no limit here.
    """
    try:
        orjson.loads(text)
    except ValueError:
        return change(text)

    def changed(match: re.Match[str]) -> str:
        value = orjson.loads(match[0])
        given = value if isinstance(value, str) else str(value)
        return match[0] if (new := change(given)) == given else orjson.dumps(new).decode()

    return _TOKEN.sub(changed, text)


def texts_in_json(text: str) -> list[str]:
    """The strings and numbers of a JSON text, decoded; what is no JSON is one text."""
    found: list[str] = []

    def collect(one: str) -> str:
        found.append(one)
        return one

    map_json(text, collect)
    return found
