"""The mock upstream: OpenAI's chat-completions wire, answered at once and always the same. Bare ASGI.

It checks that what arrives is a chat completion with an output limit, and counts what it serves.
"""

from typing import Any

import orjson

ANSWER = "The toll is paid, the gate is open, and the ledger shows what it cost."
INPUT_TOKENS, OUTPUT_TOKENS = 57, 17
COST = INPUT_TOKENS + OUTPUT_TOKENS
"""In tokens; the model has weight one."""

COMPLETION = orjson.dumps(
    {
        "id": "chatcmpl-bench00000000000000000000000",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": ANSWER, "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": INPUT_TOKENS,
            "completion_tokens": OUTPUT_TOKENS,
            "total_tokens": COST,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "service_tier": "default",
        "system_fingerprint": "fp_bench",
    }
)
_LIMITS = {"max_tokens", "max_completion_tokens"}

_served = 0


async def app(scope: Any, receive: Any, send: Any) -> None:
    """`POST /v1/chat/completions` answers; `GET /served` says how often that happened."""
    global _served
    body = bytearray()
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if scope["path"] == "/served":
        await _answer(send, 200, b"%d" % _served)
    elif scope["path"] == "/v1/chat/completions" and _is_chat(bytes(body)):
        _served += 1
        await _answer(send, 200, COMPLETION)
    else:
        await _answer(send, 400, b"{}")


def _is_chat(body: bytes) -> bool:
    request = orjson.loads(body)
    return bool(request["messages"]) and not _LIMITS.isdisjoint(request)


async def _answer(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
