"""The mock upstream: a bare ASGI application for OpenAI's chat completions, with a constant response.

It checks that each request is a chat completion with an output limit, and counts the responses. It writes the deltas of
a paced stream one by one, with a pause between two, as a model generates them. Each delta is then a packet of its own,
and a relay wakes up for each. It writes the first delta without a pause, so that no timer is part of the time to it. It
writes a burst in one piece, as from a cache: a relay receives all deltas at once.

A prompt that contains a mark selects another response, because every gateway passes the prompt on.

It also has OpenAI's moderation endpoint, which finds nothing.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson

ANSWER = "The toll is paid, the gate is open, and the ledger shows what it cost."
DELTAS = 20
PAUSE_S = 0.005
"""Long enough that a server with many streams reads each delta alone. Real models generate tokens more slowly."""

BURST_MARK = "Send all of it at once."
"""In the prompt of a stream: the response is a burst."""
UNREPORTED_MARK = "Report no usage."
"""In the prompt of a call that is not streamed: the response has no usage."""

INPUT_TOKENS, OUTPUT_TOKENS = 57, 17
STREAMED_TOKENS = DELTAS + 1
COST_TOKENS, STREAM_COST_TOKENS = INPUT_TOKENS + OUTPUT_TOKENS, INPUT_TOKENS + STREAMED_TOKENS
"""Per call. The model has the weight 1."""

_METADATA = {
    "id": "chatcmpl-bench00000000000000000000000",
    "created": 1_700_000_000,
    "model": "gpt-4o-mini-2024-07-18",
    "service_tier": "default",
    "system_fingerprint": "fp_bench",
}


def _usage(output_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": INPUT_TOKENS,
        "completion_tokens": output_tokens,
        "total_tokens": INPUT_TOKENS + output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _choice(finish_reason: str | None = None, **content: Any) -> list[dict[str, Any]]:
    return [{"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}]


def _chunk(choices: list[dict[str, Any]], **fields: Any) -> bytes:
    chunk = {**_METADATA, "object": "chat.completion.chunk", "choices": choices, **fields}
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


_message: dict[str, Any] = {"role": "assistant", "content": ANSWER, "refusal": None, "annotations": []}
_completion = {**_METADATA, "object": "chat.completion", "choices": _choice("stop", message=_message)}
COMPLETION = orjson.dumps(_completion | {"usage": _usage(OUTPUT_TOKENS)})
_COMPLETION_WITHOUT_USAGE = orjson.dumps(_completion)
STREAMED_TEXTS = ("The", *(f" toll{number:02}" for number in range(1, DELTAS)))
"""The texts of the deltas."""
_DELTA_CHUNKS = (
    _chunk(_choice(delta={"role": "assistant", "content": STREAMED_TEXTS[0], "refusal": None}), usage=None),
    *(_chunk(_choice(delta={"content": text}), usage=None) for text in STREAMED_TEXTS[1:]),
)
_FINAL_CHUNKS = (
    _chunk(_choice("stop", delta={}), usage=None)
    + _chunk([], usage=_usage(STREAMED_TOKENS))
    + b"data: [DONE]\n\n"  # a model generates nothing between these, so they are sent together
)
STREAM = b"".join(_DELTA_CHUNKS) + _FINAL_CHUNKS
"""The whole body of a stream, paced or in a burst."""

_LIMIT_FIELDS = {"max_tokens", "max_completion_tokens"}

_served = {"json": 0, "streams": 0, "bursts": 0, "moderations": 0}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Serve `POST /v1/chat/completions` and `POST /v1/moderations`, and their counts at `GET /served`."""
    body = bytearray()
    more_body = True
    while more_body:
        message = await receive()
        body += message.get("body", b"")
        more_body = message.get("more_body", False)
    if scope["path"] == "/served":
        await _respond(send, 200, orjson.dumps(_served))
        return
    if scope["path"] == "/v1/moderations":
        _served["moderations"] += 1
        texts = orjson.loads(bytes(body))["input"]
        await _respond(send, 200, orjson.dumps({"results": [{"category_scores": {"violence": 0.01}} for _ in texts]}))
        return
    request = orjson.loads(bytes(body)) if scope["path"] == "/v1/chat/completions" else {}
    if not request.get("messages") or _LIMIT_FIELDS.isdisjoint(request):
        await _respond(send, 400, b"{}")
    elif not request.get("stream"):
        _served["json"] += 1
        await _respond(send, 200, _COMPLETION_WITHOUT_USAGE if UNREPORTED_MARK.encode() in body else COMPLETION)
    elif request.get("stream_options") != {"include_usage": True}:
        await _respond(send, 400, b"{}")
    elif BURST_MARK.encode() in body:
        _served["bursts"] += 1
        await _respond_with_stream(send, (STREAM,))
    else:
        _served["streams"] += 1
        await _respond_with_stream(send, (*_DELTA_CHUNKS, _FINAL_CHUNKS))


async def _respond(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _respond_with_stream(send: Any, writes: Sequence[bytes]) -> None:
    """Write each part by itself, PAUSE_S apart."""
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for part in writes[:-1]:
        await send({"type": "http.response.body", "body": part, "more_body": True})
        await asyncio.sleep(PAUSE_S)
    await send({"type": "http.response.body", "body": writes[-1]})
