"""OpenAI's older wire of text completions: a prompt and its continuation. It is always translated.

Wire format: OpenAI API reference, "Completions".
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

from tollkeeper.chat import (
    ChatRequest,
    Completion,
    Delta,
    FinishReason,
    Message,
    Options,
    RefusalDelta,
    TextDelta,
    Usage,
)
from tollkeeper.dialects.parameters import (
    DROP,
    OURS,
    PASS,
    PRICE,
    REFUSE,
    Only,
    Rule,
    malformed,
    malformed_parameter,
    read_stop,
)
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.dialects.sse import DONE, event
from tollkeeper.errors import InvalidRequest

PARAMETERS: dict[str, Rule] = {
    "prompt": PRICE,
    "model": OURS,
    "max_tokens": OURS,
    "stream": OURS,
    "stream_options": OURS,
    "temperature": PASS,
    "top_p": PASS,
    "stop": PASS,
    "seed": PASS,
    "presence_penalty": PASS,
    "frequency_penalty": PASS,
    "user": DROP,
    "n": Only((1,), DROP),
    "best_of": Only((1,), DROP),
    "echo": Only((False,), DROP),
    "suffix": Only(("",), DROP),
    "logit_bias": Only(({},), DROP),
    "logprobs": REFUSE,
}
"""What the chat wire does not have is refused, unless it has no effect with this value."""

FINISH_REASONS = {"length": "length", "content_filter": "content_filter", "refusal": "content_filter"}
"""The `finish_reason` of each of our finish reasons that has another name here."""


class _Parameters(msgspec.Struct):
    """The parameters that become a ChatRequest."""

    prompt: str | list[str]
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


def read_request(request: Mapping[str, Any]) -> ChatRequest:
    """The ChatRequest of a decoded request: its prompt is the only message. Raises InvalidRequest."""
    prompt = request.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        sentence = "prompt is missing." if prompt is None else "prompt must be a text, or a list of one text."
        raise InvalidRequest(sentence, parameter="prompt")
    try:
        parameters = msgspec.convert(request, _Parameters)
    except msgspec.ValidationError as error:
        raise malformed(malformed_parameter(error, "prompt")) from None
    return ChatRequest(
        (Message("user", prompt),),
        Options(
            temperature=parameters.temperature,
            top_p=parameters.top_p,
            stop=read_stop(parameters.stop),
            seed=parameters.seed,
            presence_penalty=parameters.presence_penalty,
            frequency_penalty=parameters.frequency_penalty,
        ),
    )


def write_answer(completion: Completion, meta: ResponseMeta, usage: Usage) -> bytes:
    """A text completion, in JSON."""
    document = _document(meta, [_choice(completion.text, completion.finish_reason)])
    return orjson.dumps(document | {"usage": _usage(usage)})


class StreamWriter:
    """Writes one answer as chunks. `with_usage`: a last chunk has the usage."""

    def __init__(self, meta: ResponseMeta, *, with_usage: bool) -> None:
        self._meta = meta
        self._with_usage = with_usage

    def write(self, delta: Delta) -> bytes:
        """The chunk with this delta; empty for a delta that is no text."""
        match delta:
            case TextDelta(text) | RefusalDelta(text):
                return self._event([_choice(text, None)])
            case _:
                return b""

    def end(self, finish_reason: FinishReason, usage: Usage) -> bytes:
        """The chunks that end the answer."""
        events = self._event([_choice("", finish_reason)])
        if self._with_usage:
            events += self._event([], usage=_usage(usage))
        return events + DONE

    def _event(self, choices: list[dict[str, Any]], **fields: Any) -> bytes:
        return event(orjson.dumps(_document(self._meta, choices) | fields))


def _choice(text: str, finish_reason: FinishReason | None) -> dict[str, Any]:
    reason = None if finish_reason is None else FINISH_REASONS.get(finish_reason, "stop")
    return {"text": text, "index": 0, "logprobs": None, "finish_reason": reason}


def _document(meta: ResponseMeta, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": meta.id,
        "object": "text_completion",
        "created": meta.created,
        "model": meta.model,
        "choices": choices,
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }
