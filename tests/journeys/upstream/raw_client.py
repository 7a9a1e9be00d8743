"""A client that calls the upstream directly on each of its wires, and records the response piece by piece."""

import asyncio
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from journeys.support.raw_http import request
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S


class WireFields(NamedTuple):
    """The fields of a wire. `event_text` finds the text in an event, `whole_text` in a document."""

    path: str
    body: Callable[[str], dict[str, Any]]
    limit: Callable[[int], dict[str, Any]]
    event_text: Callable[[Any], str]
    whole_text: Callable[[Any], str]
    usage: Callable[[Any], Any]
    reason: Callable[[Any], Any]
    last: Any


@dataclass
class ReceivedResponse:
    """A response: its body in the chunks in which it was sent, and whether it ended properly."""

    marker: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)
    whole: bool = False
    reset: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The events of a stream, SSE or JSON lines, without comments: decoded, or as text if they are not JSON."""
        blocks = self.body.decode(errors="replace").replace("\r\n", "\n").split("\n")
        if self.headers["content-type"] == "text/event-stream":
            blocks = [line.removeprefix("data: ") for line in blocks if line.startswith("data: ")]
        return [_parsed(block) for block in blocks if block]


def _chat(prompt: str) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": prompt}]}


def _chat_event_text(event: Any) -> str:
    choices = event.get("choices") if isinstance(event, dict) else None
    return (choices[0]["delta"].get("content") or "") if choices else ""


def _delta_of(kind: str, name: str) -> Callable[[Any], str]:
    def event_text(event: Any) -> str:
        if not isinstance(event, dict) or event.get("type") != kind:
            return ""
        delta = event["delta"]
        return str(delta if isinstance(delta, str) else delta.get(name, ""))

    return event_text


CHAT = WireFields(
    "/v1/chat/completions",
    _chat,
    lambda limit: {"max_tokens": limit},
    _chat_event_text,
    lambda document: document["choices"][0]["message"]["content"],
    lambda document: (document["usage"]["prompt_tokens"], document["usage"]["completion_tokens"]),
    lambda document: document["choices"][0]["finish_reason"],
    "[DONE]",
)
RESPONSES = WireFields(
    "/v1/responses",
    lambda prompt: {"model": "gpt-4o-mini", "input": [{"role": "user", "content": [_part("input_text", prompt)]}]},
    lambda limit: {"max_output_tokens": limit},
    _delta_of("response.output_text.delta", ""),
    lambda document: document["output"][0]["content"][0]["text"],
    lambda document: (document["usage"]["input_tokens"], document["usage"]["output_tokens"]),
    lambda document: (document["incomplete_details"] or {"reason": document["status"]})["reason"],
    "response.completed",
)
MESSAGES = WireFields(
    "/v1/messages",
    lambda prompt: {"model": "claude", "messages": [{"role": "user", "content": [_part("text", prompt)]}]},
    lambda limit: {"max_tokens": limit},
    _delta_of("content_block_delta", "text"),
    lambda document: document["content"][0]["text"],
    lambda document: (document["usage"]["input_tokens"], document["usage"]["output_tokens"]),
    lambda document: document["stop_reason"],
    "message_stop",
)
OLLAMA = WireFields(
    "/api/chat",
    _chat,
    lambda limit: {"options": {"num_predict": limit}},
    lambda event: event["message"]["content"] if isinstance(event, dict) and "message" in event else "",
    lambda document: document["message"]["content"],
    lambda document: (document["prompt_eval_count"], document["eval_count"]),
    lambda document: document["done_reason"],
    True,
)
WIRES = {"chat": CHAT, "responses": RESPONSES, "messages": MESSAGES, "ollama": OLLAMA}


async def send_script(
    upstream: Upstream, wire: WireFields, *, stream: bool = True, more: dict[str, Any] | None = None, **script: Any
) -> ReceivedResponse:
    """Send a request with a script and a new marker on a new connection, and read the response to its end."""
    marker = secrets.token_hex(8)
    return await send_prompt(upstream, wire, scripted(marker, **script), {"stream": stream} | (more or {}), marker)


async def send_prompt(
    upstream: Upstream, wire: WireFields, prompt: str, more: dict[str, Any], marker: str = ""
) -> ReceivedResponse:
    """The same with a given prompt."""
    response = ReceivedResponse(marker)
    body = wire.body(prompt) | more
    async with asyncio.timeout(TEST_DEADLINE_S):
        reader, writer = await upstream.connect()
        try:
            writer.write(request("POST", wire.path, json.dumps(body).encode()))
            await _read_response(reader, response)
        finally:
            writer.transport.abort()
    return response


async def _read_response(reader: asyncio.StreamReader, response: ReceivedResponse) -> None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        response.status = int(head[0].split(" ")[1])
        response.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])}
        if "content-length" in response.headers:
            await _read_length(reader, response, int(response.headers["content-length"]))
        else:
            await _read_chunks(reader, response)
        response.whole = True
    except asyncio.IncompleteReadError as error:
        response.pieces.append(error.partial)
    except ConnectionResetError:
        response.reset = True


async def _read_length(reader: asyncio.StreamReader, response: ReceivedResponse, length: int) -> None:
    while length:
        piece = await reader.read(length)
        if not piece:
            raise asyncio.IncompleteReadError(b"", length)
        response.pieces.append(piece)
        length -= len(piece)


async def _read_chunks(reader: asyncio.StreamReader, response: ReceivedResponse) -> None:
    while size := int(await reader.readuntil(b"\r\n"), 16):
        response.pieces.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)


def _part(kind: str, text: str) -> dict[str, str]:
    return {"type": kind, "text": text}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
