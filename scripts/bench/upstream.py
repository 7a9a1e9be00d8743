"""The mock upstream: OpenAI's chat-completions wire, answered at once and always the same. Bare ASGI.

It checks that what arrives is a chat completion with an output limit, and counts what it serves. The deltas of a stream
are written one by one, with a pause between two, as a model says them: so each goes out in a packet of its own, and
whoever relays them has to wake up for each. The first leaves at once, so that no timer is in the time to it.
"""

import asyncio
from typing import Any

import orjson

ANSWER = "The toll is paid, the gate is open, and the ledger shows what it cost."
DELTAS = 20
PAUSE_S = 0.005
"""Long enough for a server that is busy with other streams to read each delta alone; tokens come slower than this."""

INPUT_TOKENS, OUTPUT_TOKENS = 57, 17
STREAMED_TOKENS = DELTAS + 1
COST, STREAM_COST = INPUT_TOKENS + OUTPUT_TOKENS, INPUT_TOKENS + STREAMED_TOKENS
"""In tokens; the model has weight one."""

_HEAD = {
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


def _choice(finish_reason: str | None = None, **said: Any) -> list[dict[str, Any]]:
    return [{"index": 0, **said, "logprobs": None, "finish_reason": finish_reason}]


def _chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
    chunk = {**_HEAD, "object": "chat.completion.chunk", "choices": choices, **more}
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


_message: dict[str, Any] = {"role": "assistant", "content": ANSWER, "refusal": None, "annotations": []}
COMPLETION = orjson.dumps(
    {
        **_HEAD,
        "object": "chat.completion",
        "choices": _choice("stop", message=_message),
        "usage": _usage(OUTPUT_TOKENS),
    }
)
_CHUNKS = (
    _chunk(_choice(delta={"role": "assistant", "content": "The", "refusal": None}), usage=None),
    *(_chunk(_choice(delta={"content": f" toll{number:02}"}), usage=None) for number in range(1, DELTAS)),
)
_ENDING = (
    _chunk(_choice("stop", delta={}), usage=None)
    + _chunk([], usage=_usage(STREAMED_TOKENS))
    + b"data: [DONE]\n\n"  # nothing has to be thought of between these, so they come together
)
STREAM = b"".join(_CHUNKS) + _ENDING
"""All bytes of a stream."""

_LIMITS = {"max_tokens", "max_completion_tokens"}

_served = {"whole": 0, "streamed": 0}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """`POST /v1/chat/completions` answers; `GET /served` says how often that happened."""
    body = bytearray()
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if scope["path"] == "/served":
        await _answer(send, 200, orjson.dumps(_served))
        return
    request = orjson.loads(bytes(body)) if scope["path"] == "/v1/chat/completions" else {}
    if not request.get("messages") or _LIMITS.isdisjoint(request):
        await _answer(send, 400, b"{}")
    elif not request.get("stream"):
        _served["whole"] += 1
        await _answer(send, 200, COMPLETION)
    elif request.get("stream_options") != {"include_usage": True}:
        await _answer(send, 400, b"{}")
    else:
        _served["streamed"] += 1
        await _stream(send)


async def _answer(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _stream(send: Any) -> None:
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for chunk in _CHUNKS:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await asyncio.sleep(PAUSE_S)
    await send({"type": "http.response.body", "body": _ENDING})
