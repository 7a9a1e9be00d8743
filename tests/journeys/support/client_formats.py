"""The formats of the metered endpoints, written and read as a client does: requests, answers, streams and errors."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

SECRET = "SECRET-OF-THE-UPSTREAM"
"""A text of the upstream that must never reach a client."""

Body = dict[str, Any]


class Event(NamedTuple):
    """One event of a stream, or one frame."""

    name: str
    data: str

    @property
    def document(self) -> Body:
        found: Body = json.loads(self.data)
        return found


@dataclass
class Answer:
    """What a client has received of an answer. `finish` is the finish reason in the word of the format, `error` the
    body of an error event; `end_events` counts the events that mark the end of the stream.
    """

    text: str = ""
    finish: str | None = None
    error: Body | None = None
    end_events: int = 0
    usage: Body = field(default_factory=dict)

    @property
    def words(self) -> int:
        return len(self.text.split())


class ClientFormat(Protocol):
    """How an endpoint is called, and how it answers."""

    length: str
    """The finish reason of an answer that was cut at the output limit."""

    def body(self, prompt: str, model: str, limit: int) -> Body: ...

    def read_whole(self, document: Body) -> Answer: ...

    def add_event(self, event: Event, answer: Answer) -> None:
        """Add one event of a stream to the answer."""
        ...

    def code(self, document: Body, headers: Mapping[str, str]) -> str:
        """Our error code, from an error response in the shape of the format."""
        ...


def events_in(stream: bytes) -> Iterator[Event]:
    """The complete events of a server-sent event stream, without comments."""
    *blocks, _ = stream.decode().split("\n\n")
    for block in blocks:
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            yield Event(fields.get("event", ""), fields["data"])


class Native:
    """/ai/query and /ai/stream."""

    length = "length"

    def body(self, prompt: str, model: str, limit: int) -> Body:
        return {"prompt": prompt, "model": model, "max_tokens": limit}

    def read_whole(self, document: Body) -> Answer:
        return Answer(document["answer"], document["finish_reason"], usage=document["usage"])

    def add_event(self, event: Event, answer: Answer) -> None:
        if event.name == "error":
            answer.error = event.document
        elif event.data == "[DONE]":
            answer.end_events += 1
        elif (piece := event.document)["is_final"]:
            assert answer.end_events == 0
            answer.finish, answer.usage = piece["finish_reason"], piece["usage"]
        else:
            assert piece["correlation_id"]
            answer.text += piece["content"]

    def code(self, document: Body, headers: Mapping[str, str]) -> str:
        assert headers["Content-Type"] == "application/problem+json", headers
        assert document["correlation_id"] == headers["X-Correlation-ID"]
        return str(document["code"])


class NativeChat(Native):
    """/ai/chat."""

    def body(self, prompt: str, model: str, limit: int) -> Body:
        return {"messages": [{"role": "user", "content": prompt}], "model": model, "max_tokens": limit}


class Frames(Native):
    """/ai/ws."""

    def body(self, prompt: str, model: str, limit: int) -> Body:
        return {"type": "query", "prompt": prompt, "model": model, "max_tokens": limit}

    def add_event(self, event: Event, answer: Answer) -> None:
        frame = event.document
        match frame["type"]:
            case "delta":
                answer.text += frame["content"]
            case "final":
                answer.finish, answer.usage = frame["finish_reason"], frame["usage"]
                answer.end_events += 1
            case "error":
                answer.error = frame

    def code(self, document: Body, headers: Mapping[str, str]) -> str:
        return str(document["code"])


class Chat:
    """/v1/chat/completions."""

    length = "length"

    def body(self, prompt: str, model: str, limit: int) -> Body:
        return {"messages": [{"role": "user", "content": prompt}], "model": model, "max_tokens": limit}

    def read_whole(self, document: Body) -> Answer:
        choice = document["choices"][0]
        return Answer(choice["message"]["content"], choice["finish_reason"], usage=document.get("usage") or {})

    def add_event(self, event: Event, answer: Answer) -> None:
        if event.data == "[DONE]":
            answer.end_events += 1
            return
        document = event.document
        if "error" in document:
            assert document["error"].keys() >= {"message", "type", "param", "code"}
            answer.error = document["error"]
            return
        for choice in document["choices"]:
            answer.text += choice["delta"].get("content") or ""
            answer.finish = choice.get("finish_reason") or answer.finish
        answer.usage = document.get("usage") or answer.usage

    def code(self, document: Body, headers: Mapping[str, str]) -> str:
        assert document["error"].keys() == {"message", "type", "param", "code"}, document
        return headers["X-Error-Code"]


class Completions(Chat):
    """/v1/completions."""

    def body(self, prompt: str, model: str, limit: int) -> Body:
        return {"prompt": prompt, "model": model, "max_tokens": limit}

    def read_whole(self, document: Body) -> Answer:
        choice = document["choices"][0]
        return Answer(choice["text"], choice["finish_reason"], usage=document.get("usage") or {})

    def add_event(self, event: Event, answer: Answer) -> None:
        if event.data == "[DONE]" or "error" in event.document:
            super().add_event(event, answer)
            return
        for choice in event.document["choices"]:
            answer.text += choice["text"]
            answer.finish = choice.get("finish_reason") or answer.finish
        answer.usage = event.document.get("usage") or answer.usage


class Embeddings(Chat):
    """/v1/embeddings."""

    def body(self, prompt: str, model: str, limit: int) -> Body:
        return {"input": prompt, "model": model}

    def read_whole(self, document: Body) -> Answer:
        assert document["data"][0]["embedding"]
        return Answer(usage=document.get("usage") or {})


class Responses(Chat):
    """/v1/responses."""

    length = "max_output_tokens"

    def body(self, prompt: str, model: str, limit: int) -> Body:
        return {"input": prompt, "model": model, "max_output_tokens": limit}

    def read_whole(self, document: Body) -> Answer:
        parts = [part for item in document["output"] for part in item.get("content", ())]
        finish = (document["incomplete_details"] or {}).get("reason", document["status"])
        return Answer("".join(part.get("text", "") for part in parts), finish, usage=document["usage"] or {})

    def add_event(self, event: Event, answer: Answer) -> None:
        document = event.document
        assert document["type"] == event.name
        if event.name == "response.output_text.delta":
            answer.text += document["delta"]
        elif event.name in {"response.completed", "response.incomplete"}:
            final = self.read_whole(document["response"])
            answer.finish, answer.usage, answer.end_events = final.finish, final.usage, answer.end_events + 1
        elif event.name in {"error", "response.failed"}:
            answer.error = document


class Messages:
    """/v1/messages."""

    length = "max_tokens"

    def body(self, prompt: str, model: str, limit: int) -> Body:
        return {"messages": [{"role": "user", "content": prompt}], "model": model, "max_tokens": limit}

    def read_whole(self, document: Body) -> Answer:
        text = "".join(block["text"] for block in document["content"] if block["type"] == "text")
        return Answer(text, document["stop_reason"], usage=document.get("usage") or {})

    def add_event(self, event: Event, answer: Answer) -> None:
        document = event.document
        assert document["type"] == event.name
        match event.name:
            case "content_block_delta":
                answer.text += document["delta"].get("text", "")
            case "message_delta":
                answer.finish, answer.usage = document["delta"]["stop_reason"], document.get("usage") or {}
            case "message_stop":
                answer.end_events += 1
            case "error":
                assert document["error"].keys() == {"type", "message"}
                answer.error = document["error"]

    def code(self, document: Body, headers: Mapping[str, str]) -> str:
        assert document["type"] == "error", document
        assert document["error"].keys() == {"type", "message"}, document
        return headers["X-Error-Code"]
