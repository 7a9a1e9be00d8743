"""The mock upstream: a bare ASGI application for OpenAI's chat completions, with a constant response.

It checks that each request is a chat completion with an output limit, and counts the responses. It writes the deltas of
a stream one by one, with a pause between two, as a model generates them. Each delta is then a packet of its own, and a
relay wakes up for each. It writes the first delta without a pause, so that no timer is part of the time to it.
"""

import asyncio
from typing import Any

import orjson

ANSWER = "The toll is paid, the gate is open, and the ledger shows what it cost."
DELTAS = 20
PAUSE_S = 0.005
"""Long enough that a server with many streams reads each delta alone. Real models generate tokens more slowly."""

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
COMPLETION = orjson.dumps(
    {
        **_METADATA,
        "object": "chat.completion",
        "choices": _choice("stop", message=_message),
        "usage": _usage(OUTPUT_TOKENS),
    }
)
_DELTA_CHUNKS = (
    _chunk(_choice(delta={"role": "assistant", "content": "The", "refusal": None}), usage=None),
    *(_chunk(_choice(delta={"content": f" toll{number:02}"}), usage=None) for number in range(1, DELTAS)),
)
_FINAL_CHUNKS = (
    _chunk(_choice("stop", delta={}), usage=None)
    + _chunk([], usage=_usage(STREAMED_TOKENS))
    + b"data: [DONE]\n\n"  # a model generates nothing between these, so they are sent together
)
STREAM = b"".join(_DELTA_CHUNKS) + _FINAL_CHUNKS
"""The whole body of a stream."""

_LIMIT_FIELDS = {"max_tokens", "max_completion_tokens"}

_served = {"json": 0, "streams": 0}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Serve `POST /v1/chat/completions`, and its counts at `GET /served`."""
    body = bytearray()
    more_body = True
    while more_body:
        message = await receive()
        body += message.get("body", b"")
        more_body = message.get("more_body", False)
    if scope["path"] == "/served":
        await _respond(send, 200, orjson.dumps(_served))
        return
    request = orjson.loads(bytes(body)) if scope["path"] == "/v1/chat/completions" else {}
    if not request.get("messages") or _LIMIT_FIELDS.isdisjoint(request):
        await _respond(send, 400, b"{}")
    elif not request.get("stream"):
        _served["json"] += 1
        await _respond(send, 200, COMPLETION)
    elif request.get("stream_options") != {"include_usage": True}:
        await _respond(send, 400, b"{}")
    else:
        _served["streams"] += 1
        await _respond_with_stream(send)


async def _respond(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _respond_with_stream(send: Any) -> None:
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for chunk in _DELTA_CHUNKS:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await asyncio.sleep(PAUSE_S)
    await send({"type": "http.response.body", "body": _FINAL_CHUNKS})
