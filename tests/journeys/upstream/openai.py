"""OpenAI's wires for chat completions, embeddings and models, as the reference shows them."""

import base64
import hashlib
import struct
from collections.abc import Iterator
from typing import Any

from journeys.upstream.script import SECRET, Answer, Body, Part, Usage, split_words
from journeys.upstream.wire import CREATED, Frame

_REASONS = {"tool": "tool_calls", "refusal": "stop"}
_DELTAS = {"text": "content", "refusal": "refusal", "reasoning": "reasoning_content"}
_DIMENSIONS = 8


def chat_usage(usage: Any) -> Any:
    if not isinstance(usage, Usage):
        return usage
    report: dict[str, Any] = {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
    }
    if usage.cached:
        report["prompt_tokens_details"] = {"cached_tokens": usage.cached, "audio_tokens": 0}
    if usage.reasoning:
        report["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning, "audio_tokens": 0}
    return report


class OpenAI:
    """The errors that all of OpenAI's wires share."""

    media_type = "text/event-stream"

    def streams(self, body: Body) -> bool:
        return bool(body.get("stream"))

    def error(self, status: int) -> dict[str, Any]:
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(status, "server_error")
        kind = "invalid_request_error" if status in (400, 404, 422) else kind
        return {"error": {"message": f"{SECRET} went wrong", "type": kind, "param": None, "code": f"code_{status}"}}

    def error_frame(self, number: int) -> Frame:
        return Frame(self.error(500))


class Chat(OpenAI):
    """POST /v1/chat/completions."""

    name = "chat"

    def limit(self, body: Body) -> int | None:
        return body.get("max_tokens") or body.get("max_completion_tokens")

    def document(self, body: Body, answer: Answer, number: int) -> dict[str, Any]:
        finish = _REASONS.get(answer.reason, answer.reason)
        message = _message(answer.parts)
        document: dict[str, Any] = {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "created": CREATED,
            "model": body["model"],
            "choices": [
                {
                    "index": index,
                    "message": message,
                    "logprobs": _logprobs(body, message["content"] or ""),
                    "finish_reason": finish,
                }
                for index in range(answer.choices)
            ],
            "system_fingerprint": "fp_1",
        }
        return document | ({"usage": chat_usage(answer.usage)} if answer.reported else {})

    def frames(self, body: Body, answer: Answer, number: int) -> Iterator[Frame]:
        include_usage = (body.get("stream_options") or {}).get("include_usage")
        head = {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": body["model"],
            "system_fingerprint": "fp_1",
        }
        tail = {"usage": None} if include_usage else {}

        def chunk(index: int, delta: dict[str, Any], finish: str | None = None, logprobs: Any = None) -> dict[str, Any]:
            choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
            return head | {"choices": [choice]} | tail

        indexes = range(answer.choices)
        has_only_tools = all(part.kind == "tool" for part in answer.parts)
        for index in indexes:
            yield Frame(chunk(index, {"role": "assistant", "content": None if has_only_tools else "", "refusal": None}))
        tools = 0
        for place, part in enumerate(answer.parts):
            if part.kind == "tool":
                for index in indexes:
                    yield Frame(chunk(index, {"tool_calls": [{"index": tools} | _tool(part, tools, "")]}))
            for text in part.chunks:
                for index in indexes:
                    yield Frame(
                        chunk(index, _delta(part, tools, text), logprobs=_logprobs(body, text, part)),
                        part=f"{place}:{index}",
                        text=text,
                    )
            tools += part.kind == "tool"
        for index in indexes:
            yield Frame(chunk(index, {}, _REASONS.get(answer.reason, answer.reason)))
        if include_usage and answer.reported:
            yield Frame(head | {"choices": [], "usage": chat_usage(answer.usage)})
        yield Frame("[DONE]", last=True)


class Embeddings(OpenAI):
    """POST /v1/embeddings. A vector depends on its input alone."""

    name = "embeddings"

    def limit(self, body: Body) -> int | None:
        return None

    def streams(self, body: Body) -> bool:
        return False

    def document(self, body: Body, answer: Answer, number: int) -> dict[str, Any]:
        value = body["input"]
        inputs = value if isinstance(value, list) and not isinstance(value[0], int) else [value]
        packed = body.get("encoding_format") == "base64"
        vectors = (_vector(repr(one), body.get("dimensions") or _DIMENSIONS) for one in inputs)
        data = [
            {"object": "embedding", "index": index, "embedding": _pack(vector) if packed else vector}
            for index, vector in enumerate(vectors)
        ]
        document: dict[str, Any] = {"object": "list", "data": data, "model": body["model"]}
        usage = answer.usage
        if isinstance(usage, Usage):
            usage = {"prompt_tokens": usage.input, "total_tokens": usage.input}
        return document | ({"usage": usage} if answer.reported else {})

    def frames(self, body: Body, answer: Answer, number: int) -> Iterator[Frame]:
        raise NotImplementedError


def openai_models(names: tuple[str, ...]) -> dict[str, Any]:
    """GET /v1/models."""
    data = [{"id": name, "object": "model", "created": CREATED, "owned_by": "upstream"} for name in names]
    return {"object": "list", "data": data}


def _message(parts: tuple[Part, ...]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    tools = [part for part in parts if part.kind == "tool"]
    message |= {_DELTAS[part.kind]: part.text for part in parts if part.kind != "tool"}
    if tools:
        message["tool_calls"] = [_tool(part, place, part.text) for place, part in enumerate(tools)]
    elif not any(part.kind == "refusal" for part in parts):
        message["content"] = message["content"] or ""
    return message


def _tool(part: Part, place: int, arguments: str) -> dict[str, Any]:
    return {"id": f"call_{place}", "type": "function", "function": {"name": part.name, "arguments": arguments}}


def _delta(part: Part, tool: int, text: str) -> dict[str, Any]:
    if part.kind == "tool":
        return {"tool_calls": [{"index": tool, "function": {"arguments": text}}]}
    return {_DELTAS[part.kind]: text}


def _logprobs(body: Body, text: str, part: Part | None = None) -> dict[str, Any] | None:
    if not body.get("logprobs") or (part is not None and part.kind != "text"):
        return None
    tokens = [{"token": word, "logprob": -0.5, "bytes": list(word.encode())} for word in split_words(text)]
    others = body.get("top_logprobs") or 0
    return {"content": [token | {"top_logprobs": [token] * others} for token in tokens], "refusal": None}


def _vector(text: str, dimensions: int) -> list[float]:
    """Each number is a sum of powers of two, so that it is the same in 32 bits."""
    digest = hashlib.sha256(text.encode()).digest()
    return [(digest[place % len(digest)] - 128) / 128 for place in range(dimensions)]


def _pack(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def moderate(body: Body) -> dict[str, Any]:
    """The answer of POST /v1/moderations: a text is violent if it has the word `violent`."""
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    results = []
    for text in texts:
        is_violent = "violent" in text
        results.append(
            {
                "flagged": is_violent,
                "categories": {"violence": is_violent, "hate": False},
                "category_scores": {"violence": 0.97 if is_violent else 0.0001, "hate": 0.0002},
            }
        )
    return {"id": "modr-1", "model": body["model"], "results": results}
