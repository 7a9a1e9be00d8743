"""What is stored of a call's content, where its tenant has turned that on: messages and answer, without pictures."""

from typing import Any

import orjson

from tollkeeper.chat import Completion, Image, Message, Part, Reasoning, ToolCall
from tollkeeper.contents.content_log import Content, ContentLog
from tollkeeper.errors import InputError
from tollkeeper.gateway.call_record import CallRecord
from tollkeeper.gateway.candidate import Candidate
from tollkeeper.gateway.results import Outcome

MAX_TEXT = 512 * 1024
"""Characters of prompt and answer that are stored of a call. The rest is left out, which `truncated` says."""


def keep_content(contents: ContentLog, record: CallRecord, candidate: Candidate, outcome: Outcome | None) -> None:
    """Queue the content of a call whose charge is closed. A refused call has none, a replayed one has its first's."""
    charge = record.charge
    if charge is None or record.replayed:
        return
    called = outcome.candidate if outcome is not None else candidate
    error = record.error

    def read() -> bytes:
        return orjson.dumps(_document(candidate, outcome, error), option=orjson.OPT_NON_STR_KEYS)

    contents.put(
        Content(
            owner=record.caller,
            charge_id=charge.charge_id,
            surface=candidate.call.surface,
            provider=called.model.provider.name,
            model=called.model.name,
            size=max(candidate.call.input.size, len(candidate.prepared.body)),
            read=read,
            documents=frozenset(one.document_id for one in candidate.call.passages or ()),
        )
    )


class _Budget:
    """Cuts texts once they are longer than MAX_TEXT together."""

    def __init__(self) -> None:
        self._left = MAX_TEXT
        self.exceeded = False

    def cut(self, text: str) -> str:
        kept = text[: self._left]
        self.exceeded = self.exceeded or len(kept) < len(text)
        self._left -= len(kept)
        return kept.encode("utf-8", "replace").decode()  # a lone surrogate cannot be stored


def _document(candidate: Candidate, outcome: Outcome | None, error: str | None) -> dict[str, Any]:
    budget = _Budget()
    answer = _answer(outcome.read(), budget) if outcome is not None else None
    messages = _messages(candidate, budget)
    return {"messages": messages, "answer": answer, "error": error, "truncated": budget.exceeded}


def _messages(candidate: Candidate, budget: _Budget) -> list[dict[str, Any]]:
    """The messages with their roles; of an input that is no chat, its texts."""
    try:
        messages = candidate.call.input.chat_request.messages
    except InputError:
        messages = tuple(Message("user", one) for one in candidate.prepared.texts())
    return [{"role": one.role, "content": [_part(part, budget) for part in one.parts]} for one in messages]


def _part(part: Part, budget: _Budget) -> dict[str, Any]:
    match part:
        case str():
            return {"type": "text", "text": budget.cut(part)}
        case Reasoning():
            return {"type": "reasoning", "text": budget.cut(part.text)}
        case ToolCall():
            return {"type": "tool_call", "name": budget.cut(part.name), "text": budget.cut(part.arguments)}
        case Image():
            return {"type": "image"}
        case _:
            return {"type": "tool_result", "text": budget.cut(part.content)}


def _answer(completion: Completion, budget: _Budget) -> dict[str, Any]:
    parts: list[Part] = [*completion.reasoning_blocks, *([completion.text] if completion.text else [])]
    parts += completion.tool_calls
    if completion.refusal is not None and completion.refusal != completion.text:
        parts.append(completion.refusal)
    return {"content": [_part(part, budget) for part in parts], "finish_reason": completion.finish_reason}
