"""A tenant's policy, compiled: what its rules find, and which of them apply to a surface."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import re2

from tollkeeper.errors import InvalidRequest
from tollkeeper.key_limits import SURFACES
from tollkeeper.moderation import pii
from tollkeeper.moderation.documents import (
    ClassifierDocument,
    PolicyDocument,
    RuleDocument,
    WindowDocument,
    write_document,
)
from tollkeeper.moderation.folding import DATA, PHRASES, WORDS
from tollkeeper.moderation.patterns import BadPattern, Span, compile_pattern, find_spans
from tollkeeper.worker_thread import LARGE_BYTES, pause, run_by_size

CHARS_PER_TOKEN = 4
"""How tokens of a window are counted. English text has about so many characters per token (OpenAI, "Tokenizer")."""
CASELESS_SCRIPTS = 0x2E80
"""From this code point on (Unicode, CJK Radicals), scripts write no spaces between words."""
REDACTED = "REDACTED"
"""The label of what a tenant's own rule finds."""

Find = Callable[[str], Iterator[Span]]
Beginnings = dict[str | None, "Beginnings"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `finders` find spans, each with a label; a classifier has none. `longest` is the length of the longest
    match that is known beforehand, in characters; 0 if it is not.
    """

    document: RuleDocument
    kind: str
    finders: tuple[tuple[str, Find], ...]
    longest: int

    @property
    def name(self) -> str:
        return self.document.name

    @property
    def action(self) -> str:
        return self.document.action

    @property
    def is_enforced(self) -> bool:
        """Whether what it finds changes the call."""
        return self.action != "flag" and not self.document.report_only


@dataclass(frozen=True, slots=True)
class Classifier:
    """A rule whose judge is a model."""

    rule: Rule
    document: ClassifierDocument


@dataclass(frozen=True, slots=True)
class SurfacePolicy:
    """What of a policy applies to one surface. `fingerprint` differs between policies."""

    input_rules: tuple[Rule, ...]
    output_rules: tuple[Rule, ...]
    input_classifiers: tuple[Classifier, ...]
    output_classifiers: tuple[Classifier, ...]
    window: WindowDocument
    service_account: int | None
    fingerprint: str

    @property
    def holds_back(self) -> bool:
        """Whether an answer is checked before it is sent."""
        return any(rule.is_enforced for rule in self.output_rules) or self.holds_all

    @property
    def holds_all(self) -> bool:
        """Whether an answer is checked as a whole, before any of it is sent."""
        return any(one.rule.is_enforced for one in self.output_classifiers)

    def work_on(self, size: int) -> int:
        """How much work it is to check an input of `size` bytes, as the bytes of one whose work is reading it."""
        return size * max(1, sum(len(rule.finders) for rule in self.input_rules) // 4)

    @property
    def checks_output(self) -> bool:
        return bool(self.output_rules or self.output_classifiers)

    @property
    def window_chars(self) -> int:
        """How many characters of a stream are held back at least."""
        longest = max((rule.longest for rule in self.output_rules), default=0)
        return max(self.window.tokens * CHARS_PER_TOKEN, longest)


class Policy:
    """The policy of a tenant."""

    def __init__(self, document: PolicyDocument) -> None:
        """Raises InvalidRequest, which names the rule at fault."""
        self._document = document
        names = [rule.name for rule in document.rules]
        if len(set(names)) < len(names):
            raise InvalidRequest("Each rule needs a name of its own.")
        self._rules = tuple(map(_compile, document.rules))
        self._fingerprint = hashlib.sha256(write_document(document).encode()).hexdigest()
        self._by_surface: dict[tuple[str, ...], SurfacePolicy | None] = {}
        if document.service_account is None and any(
            rule.classifier is not None and rule.classifier.model is not None for rule in document.rules
        ):
            raise InvalidRequest("A classifier with a model needs service_account: it pays for the calls of the model.")

    def for_surface(self, *surfaces: str) -> SurfacePolicy | None:
        """What applies to a surface, or to any of several; None if nothing does."""
        if surfaces not in self._by_surface:
            self._by_surface[surfaces] = self._select(surfaces)
        return self._by_surface[surfaces]

    def _select(self, surfaces: Sequence[str]) -> SurfacePolicy | None:
        any_of = set(surfaces)
        rules = [one for one in self._rules if one.document.surfaces is None or any_of & {*one.document.surfaces}]
        if not rules:
            return None

        def at(stage: str) -> tuple[tuple[Rule, ...], tuple[Classifier, ...]]:
            here = [one for one in rules if stage in one.document.stages]
            judged = [Classifier(one, one.document.classifier) for one in here if one.document.classifier is not None]
            return tuple(one for one in here if one.finders), tuple(judged)

        (input_rules, input_classifiers), (output_rules, output_classifiers) = at("input"), at("output")
        return SurfacePolicy(
            input_rules,
            output_rules,
            input_classifiers,
            output_classifiers,
            self._document.window,
            self._document.service_account,
            self._fingerprint,
        )


def _compile(document: RuleDocument) -> Rule:
    pause()
    given = [name for name in ("pattern", "words", "pii", "classifier") if getattr(document, name) is not None]
    if len(given) != 1:
        raise InvalidRequest(f"The rule {document.name} needs exactly one of pattern, words, pii and classifier.")
    for surface in document.surfaces or ():
        if surface not in SURFACES:
            raise InvalidRequest(f"The rule {document.name}: surfaces are among {', '.join(SURFACES)}.")
    kind = given[0]
    if document.pii is not None:
        finders = tuple((one.upper(), DATA.finding(pii.DETECTORS[one])) for one in document.pii)
        return Rule(document, kind, finders, pii.MAX_SPACED)
    if document.words is not None:
        return Rule(document, kind, ((REDACTED, _word_finder(document)),), max(map(len, document.words)) + 1)
    if document.pattern is not None:
        compiled = _compiled(document, document.pattern)
        if compiled.search("") is not None:
            raise InvalidRequest(f"The pattern of the rule {document.name} matches an empty text, so every text.")
        return Rule(document, kind, ((REDACTED, partial(find_spans, compiled)),), 0)
    _check_classifier(document)
    return Rule(document, kind, (), 0)


def _check_classifier(document: RuleDocument) -> None:
    classifier = document.classifier
    assert classifier is not None
    if (classifier.model is None) == (classifier.provider is None):
        raise InvalidRequest(f"The classifier of the rule {document.name} needs either a model or a provider.")
    if document.action == "redact":
        raise InvalidRequest(f"The rule {document.name}: a classifier judges a whole text, so it cannot redact.")


def _compiled(document: RuleDocument, pattern: str) -> Any:
    try:
        return compile_pattern(pattern)
    except BadPattern as error:
        raise InvalidRequest(f"The pattern of the rule {document.name} is not valid for RE2: {error}.") from None


def _word_finder(document: RuleDocument) -> Find:
    written = {word.strip() for word in document.words or ()}
    folder = PHRASES if any(re.search(r"\s", word) for word in written) else WORDS
    words = sorted({folder.read(word).text for word in written} - {""}, key=len, reverse=True)
    if not words:
        raise InvalidRequest(f"The rule {document.name} needs words that are not blank.")
    compiled = _compiled(document, "(?i)" + "|".join(map(re2.escape, words)))
    beginnings = _beginnings(words)

    def find(text: str) -> Iterator[Span]:
        for start, end in find_spans(compiled, text):
            if _is_word(text, start, end):
                yield start, end
                continue
            for begin in range(start, end):  # other words of the list may begin here, and end as words
                if (found := _longest_word(beginnings, text, begin)) is not None:
                    yield begin, found
                    break

    return folder.finding(find)


def _beginnings(words: Sequence[str]) -> Beginnings:
    """The words as a tree of their characters, in small letters. A word ends where None is a key."""
    tree: Beginnings = {}
    for word in words:
        node = tree
        for character in word:
            node = node.setdefault(character.casefold(), {})
        node[None] = {}
    return tree


def _longest_word(beginnings: Beginnings, text: str, start: int) -> int | None:
    """Where the longest word of the tree ends that begins at `start` and is no part of a longer one in the text."""
    if _joins(text[start - 1 : start], text[start]):
        return None
    end, node, position = None, beginnings, start
    while position < len(text) and (following := node.get(text[position].casefold())) is not None:
        node, position = following, position + 1
        if None in node and not _joins(text[position : position + 1], text[position - 1]):
            end = position
    return end


def _is_word(text: str, start: int, end: int) -> bool:
    """Whether a match is no part of a longer word."""
    return not (_joins(text[start - 1 : start], text[start]) or _joins(text[end : end + 1], text[end - 1]))


def _joins(neighbour: str, edge: str) -> bool:
    return neighbour.isalnum() and edge.isalnum() and ord(edge) < CASELESS_SCRIPTS


async def compile_policy(document: PolicyDocument) -> Policy:
    """The policy of a document, compiled in a thread: a large pattern takes some 40 ms. Raises InvalidRequest."""
    return await run_by_size(LARGE_BYTES + 1, Policy, document)


def example() -> dict[str, Any]:
    """A policy for the documentation."""
    document = PolicyDocument(
        rules=(
            RuleDocument(name="personal-data", action="redact", pii=("email", "phone", "iban", "card")),
            RuleDocument(name="secrets", action="block", pii=("secret",), stages=("input",)),
            RuleDocument(name="code-names", action="block", words=("Project Heron",), report_only=True),
        )
    )
    built: dict[str, Any] = msgspec.to_builtins(document)
    return built
