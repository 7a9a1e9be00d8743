"""What the doors say, read as their callers read it: answers, streams and errors in the dialect of each."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

SECRET = "SECRET-OF-THE-UPSTREAM"
"""What must never come through."""

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
class Said:
    """An answer as far as it came. `finish` is the dialect's own word, `error` what the event says that it broke by;
    `ends` counts the events by which the dialect says that all is said.
    """

    text: str = ""
    finish: str | None = None
    error: Body | None = None
    ends: int = 0
    usage: Body = field(default_factory=dict)

    @property
    def words(self) -> int:
        return len(self.text.split())


class Dialect(Protocol):
    """How a surface is asked, and how it answers."""

    length: str
    """The finish reason of an answer that was cut for being too long."""

    def body(self, prompt: str, model: str, limit: int) -> Body: ...

    def whole(self, document: Body) -> Said: ...

    def hear(self, event: Event, said: Said) -> None:
        """Take note of one event of a stream."""
        ...

    def code(self, document: Body, headers: Mapping[str, str]) -> str:
        """Our code of what went wrong, from an answer that has the dialect's shape of an error."""
        ...


def events_in(stream: bytes) -> Iterator[Event]:
    """The events in server-sent events that are whole; comments are none."""
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

    def whole(self, document: Body) -> Said:
        return Said(document["answer"], document["finish_reason"], usage=document["usage"])

    def hear(self, event: Event, said: Said) -> None:
        if event.name == "error":
            said.error = event.document
        elif event.data == "[DONE]":
            said.ends += 1
        elif (piece := event.document)["is_final"]:
            assert said.ends == 0
            said.finish, said.usage = piece["finish_reason"], piece["usage"]
        else:
            assert piece["correlation_id"]
            said.text += piece["content"]

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

    def hear(self, event: Event, said: Said) -> None:
        frame = event.document
        match frame["type"]:
            case "delta":
                said.text += frame["content"]
            case "final":
                said.finish, said.usage = frame["finish_reason"], frame["usage"]
                said.ends += 1
            case "error":
                said.error = frame

    def code(self, document: Body, headers: Mapping[str, str]) -> str:
        return str(document["code"])


class Chat:
    """/v1/chat/completions."""

    length = "length"

    def body(self, prompt: str, model: str, limit: int) -> Body:
        return {"messages": [{"role": "user", "content": prompt}], "model": model, "max_tokens": limit}

    def whole(self, document: Body) -> Said:
        choice = document["choices"][0]
        return Said(choice["message"]["content"], choice["finish_reason"], usage=document.get("usage") or {})

    def hear(self, event: Event, said: Said) -> None:
        if event.data == "[DONE]":
            said.ends += 1
            return
        document = event.document
        if "error" in document:
            assert document["error"].keys() >= {"message", "type", "param", "code"}
            said.error = document["error"]
            return
        for choice in document["choices"]:
            said.text += choice["delta"].get("content") or ""
            said.finish = choice["finish_reason"] or said.finish
        said.usage = document.get("usage") or said.usage

    def code(self, document: Body, headers: Mapping[str, str]) -> str:
        assert document["error"].keys() == {"message", "type", "param", "code"}, document
        return headers["X-Error-Code"]


class Embeddings(Chat):
    """/v1/embeddings."""

    def body(self, prompt: str, model: str, limit: int) -> Body:
        return {"input": prompt, "model": model}

    def whole(self, document: Body) -> Said:
        assert document["data"][0]["embedding"]
        return Said(usage=document.get("usage") or {})


class Responses(Chat):
    """/v1/responses."""

    length = "max_output_tokens"

    def body(self, prompt: str, model: str, limit: int) -> Body:
        return {"input": prompt, "model": model, "max_output_tokens": limit}

    def whole(self, document: Body) -> Said:
        parts = [part for item in document["output"] for part in item.get("content", ())]
        finish = (document["incomplete_details"] or {}).get("reason", document["status"])
        return Said("".join(part.get("text", "") for part in parts), finish, usage=document["usage"] or {})

    def hear(self, event: Event, said: Said) -> None:
        document = event.document
        assert document["type"] == event.name
        if event.name == "response.output_text.delta":
            said.text += document["delta"]
        elif event.name in {"response.completed", "response.incomplete"}:
            whole = self.whole(document["response"])
            said.finish, said.usage, said.ends = whole.finish, whole.usage, said.ends + 1
        elif event.name in {"error", "response.failed"}:
            said.error = document


class Messages:
    """/v1/messages."""

    length = "max_tokens"

    def body(self, prompt: str, model: str, limit: int) -> Body:
        return {"messages": [{"role": "user", "content": prompt}], "model": model, "max_tokens": limit}

    def whole(self, document: Body) -> Said:
        text = "".join(block["text"] for block in document["content"] if block["type"] == "text")
        return Said(text, document["stop_reason"], usage=document.get("usage") or {})

    def hear(self, event: Event, said: Said) -> None:
        document = event.document
        assert document["type"] == event.name
        match event.name:
            case "content_block_delta":
                said.text += document["delta"].get("text", "")
            case "message_delta":
                said.finish, said.usage = document["delta"]["stop_reason"], document.get("usage") or {}
            case "message_stop":
                said.ends += 1
            case "error":
                assert document["error"].keys() == {"type", "message"}
                said.error = document["error"]

    def code(self, document: Body, headers: Mapping[str, str]) -> str:
        assert document["type"] == "error", document
        assert document["error"].keys() == {"type", "message"}, document
        return headers["X-Error-Code"]
