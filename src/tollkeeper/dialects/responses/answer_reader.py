"""Reads whole answers."""

from typing import Any, NamedTuple

import msgspec

from tollkeeper.chat import Completion, FinishReason, Reasoning, ToolCall, UsageReport
from tollkeeper.dialects.answer_checks import (
    UNTYPED_FLOAT,
    MalformedAnswer,
    has_error,
    raise_failure,
    raise_unreadable,
)
from tollkeeper.dialects.answer_tool_calls import arguments_text, known_reason, new_call_id
from tollkeeper.dialects.lenient_decoding import DECODE_ERRORS, decode_leniently
from tollkeeper.dialects.signatures import seal
from tollkeeper.dialects.usage_counts import CHAT_NAMES, RESPONSES_NAMES, read_openai_usage

FAILED_STATUSES = frozenset({"failed", "cancelled"})
TEXT_PARTS = frozenset({"output_text", "text"})
"""The types of parts with the text of a message. Some servers use the shorter name."""


class Part(msgspec.Struct):
    """A part of an item."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None


class OutputItem(msgspec.Struct):
    """An output item of any type. Of a type that is not known here, only the type is read."""

    type: str = ""
    id: str | None = None
    content: list[Part] | str | None = None
    summary: list[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: Any = None
    input: Any = None
    encrypted_content: Any = None

    @property
    def is_call(self) -> bool:
        return self.type in {"function_call", "custom_tool_call"}

    @property
    def tool_call(self) -> ToolCall:
        """The tool call in an item that is one. Its id is empty if the item has none."""
        custom = self.type == "custom_tool_call"
        arguments = arguments_text(self.input if custom else self.arguments)
        return ToolCall(self.call_id or self.id or "", self.name or "", arguments, custom)

    @property
    def texts(self) -> "ItemTexts":
        """The texts of a message or of reasoning."""
        parts = [Part("output_text", self.content)] if isinstance(self.content, str) else self.content or []
        if self.type == "reasoning":
            return ItemTexts(reasoning="".join([part.text or "" for part in (self.summary or []) + parts]))
        if self.type != "message":
            return ItemTexts()
        return ItemTexts(
            "".join([part.text or "" for part in parts if part.type in TEXT_PARTS]),
            "".join([part.refusal or "" for part in parts if part.type == "refusal"]),
        )

    def seal(self, signer: str, text: str) -> str:
        """The seal with the encrypted content of reasoning whose text is `text`; empty if it has none."""
        encrypted = self.encrypted_content
        return seal(signer, "encrypted", encrypted, text) if signer and encrypted and isinstance(encrypted, str) else ""


class ItemTexts(NamedTuple):
    """The texts of one output item, or of several."""

    text: str = ""
    refusal: str = ""
    reasoning: str = ""


def texts_of(items: list[OutputItem]) -> ItemTexts:
    """The texts of all items."""
    return ItemTexts(*map("".join, zip(ItemTexts(), *[item.texts for item in items], strict=True)))


class IncompleteDetails(msgspec.Struct):
    """Why a response is incomplete."""

    reason: str | None = None


class _Answer(msgspec.Struct):
    """The fields of a response that metering and a Completion need."""

    output: list[OutputItem] | None = None
    status: str | None = None
    incomplete_details: IncompleteDetails | None = None
    usage: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Answer, float_hook=UNTYPED_FLOAT).decode


def read_answer(body: bytes, signer: str = "") -> Completion:
    """Read a response. Its encrypted reasoning is sealed as that of the model `signer`, if one is given.

    Raises MalformedAnswer if it is malformed or unfinished, ProviderSentError if it failed.
    """
    try:
        answer = _decode(body)
    except DECODE_ERRORS:
        answer = decode_leniently(body, _Answer)
    usage, items = read_usage(answer.usage), answer.output
    if not items and usage is None and answer.status is None:
        raise_unreadable(body, read_usage)
    if answer.status in FAILED_STATUSES or has_error(answer.error, has_answer=items is not None):
        raise_failure(usage, has_output=bool(items))
    if answer.status not in {None, "completed", "incomplete"}:
        raise MalformedAnswer
    calls = tuple([item.tool_call for item in items or () if item.is_call])
    text, refusal, reasoning = texts_of(items or [])
    return Completion(
        text=text or refusal,
        finish_reason=finish_reason(answer.status, answer.incomplete_details, calls=bool(calls), refused=bool(refusal)),
        usage=usage,
        tool_calls=tuple([call if call.id else call._replace(id=new_call_id()) for call in calls]),
        refusal=refusal or None,
        reasoning=reasoning or None,
        signed_reasoning=_signed_reasoning(items or [], signer),
    )


def _signed_reasoning(items: list[OutputItem], signer: str) -> tuple[Reasoning, ...]:
    texts = [(item, item.texts.reasoning) for item in items if item.type == "reasoning"]
    blocks = [Reasoning(text, item.seal(signer, text)) for item, text in texts]
    return tuple([one for one in blocks if any(one)]) if any(one.signature for one in blocks) else ()


def finish_reason(status: str | None, details: IncompleteDetails | None, *, calls: bool, refused: bool) -> FinishReason:
    """Our finish reason of a response with that status; `calls`: it contains tool calls; `refused`: a refusal."""
    if status == "incomplete":
        reason = details.reason if details is not None else None
        return "length" if reason is None else known_reason(reason)
    if calls:
        return "tool_calls"
    return "refusal" if refused else "stop"


def read_usage(reported: Any) -> UsageReport | None:
    """The reported usage; None if there is none, or no count in it is valid."""
    return read_openai_usage(reported, RESPONSES_NAMES, CHAT_NAMES)
