"""A tenant's policy as an administrator writes it, and as it is stored: JSON, read strictly."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

MAX_RULES = 50
MAX_PATTERN_LENGTH = 1_000
MAX_WORDS = 500
MAX_WORD_LENGTH = 100

Stage = Literal["input", "output"]
Action = Literal["flag", "redact", "block"]
PiiKind = Literal["email", "phone", "iban", "card", "secret"]
Name40 = Annotated[str, Meta(min_length=1, max_length=40, pattern=r"^[a-z0-9][a-z0-9_-]*\Z")]
Text200 = Annotated[str, Meta(min_length=1, max_length=200)]
Text40 = Annotated[str, Meta(min_length=1, max_length=40)]


class ClassifierDocument(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A model that judges a text. Exactly one of `model` and `provider` is given.

    `model` is any model of the catalog: the policy's service account calls it, and pays. `provider` is one with
    OpenAI's moderation endpoint, which costs nothing. A text is found if a score reaches the `threshold`: of one of
    the `categories`, if any are given. If the classifier fails, `on_failure` says what becomes of the call.
    With `history`, it judges all texts of a request, not only those after the last answer in it.
    """

    model: Text200 | None = None
    provider: Text40 | None = None
    moderation_model: Text200 = "omni-moderation-latest"
    instructions: Annotated[str, Meta(max_length=4_000)] = ""
    categories: Annotated[tuple[Text40, ...], Meta(max_length=50)] = ()
    threshold: Annotated[float, Meta(gt=0, le=1)] = 0.5
    on_failure: Literal["block", "allow"] = "block"
    history: bool = False


class RuleDocument(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One rule. Exactly one of `pattern` (RE2), `words`, `pii` and `classifier` says what it finds.

    `surfaces` are those it applies to; without them, all. With `report_only`, it changes no call, and is counted.
    """

    name: Name40
    action: Action
    stages: Annotated[tuple[Stage, ...], Meta(min_length=1, max_length=2)] = ("input", "output")
    surfaces: Annotated[tuple[Text40, ...], Meta(min_length=1, max_length=20)] | None = None
    report_only: bool = False
    pattern: Annotated[str, Meta(min_length=1, max_length=MAX_PATTERN_LENGTH)] | None = None
    words: (
        Annotated[
            tuple[Annotated[str, Meta(min_length=1, max_length=MAX_WORD_LENGTH)], ...],
            Meta(min_length=1, max_length=MAX_WORDS),
        ]
        | None
    ) = None
    pii: Annotated[tuple[PiiKind, ...], Meta(min_length=1, max_length=5)] | None = None
    classifier: ClassifierDocument | None = None


class WindowDocument(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How much of a stream is held back while it is checked: so many tokens, counted as four characters each; or up to
    the end of each sentence.
    """

    unit: Literal["tokens", "sentence"] = "tokens"
    tokens: Annotated[int, Meta(ge=1, le=2_000)] = 32


class PolicyDocument(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The policy of a tenant. `service_account` is the id of the service account that pays for classifiers."""

    rules: Annotated[tuple[RuleDocument, ...], Meta(max_length=MAX_RULES)]
    window: WindowDocument = msgspec.field(default_factory=WindowDocument)
    service_account: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None


_decode = msgspec.json.Decoder(PolicyDocument).decode
_encode = msgspec.json.Encoder(order="sorted").encode


def read_document(stored: str) -> PolicyDocument:
    """The document of a stored policy."""
    return _decode(stored)


def write_document(document: PolicyDocument) -> str:
    """The document as it is stored."""
    return _encode(document).decode()
