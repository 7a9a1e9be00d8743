"""Others' doors, asked with whatever a test wants to say, and providers' answers put together by hand."""

import json
from typing import Any

from journeys.support.client_formats import events_in
from journeys.support.users import Person, Reply
from journeys.upstream.handle import scripted

CHAT_DOOR, RESPONSES_DOOR, MESSAGES_DOOR = "/v1/chat/completions", "/v1/responses", "/v1/messages"


async def post(caller: Person, path: str, **document: Any) -> Reply:
    async with caller.http.post(path, json=document, headers=caller.bearer) as response:
        return Reply(response.status, await response.json(content_type=None), response.headers)


async def events(caller: Person, path: str, **document: Any) -> list[dict[str, Any]]:
    """Those of a stream, as far as they are documents."""
    async with caller.http.post(path, json=document | {"stream": True}, headers=caller.bearer) as response:
        assert response.status == 200, await response.text()
        return [event.document for event in events_in(await response.read()) if event.data != "[DONE]"]


def asked(prompt: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}]}


def answering(marker: str, *deltas: dict[str, Any], finish: str = "stop", whole: dict[str, Any] | None = None) -> str:
    """A prompt to the chat wire: a whole message, or a stream of those deltas, without a usage."""
    if whole is not None:
        return scripted(marker, json={"choices": [{"message": whole, "finish_reason": finish}]})
    choices: list[dict[str, Any]] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": finish})
    raw = "".join(f"data: {json.dumps({'choices': [choice]})}\n\n" for choice in choices) + "data: [DONE]\n\n"
    return scripted(marker, raw=raw, headers={"Content-Type": "text/event-stream"})


def assert_refused(reply: Reply, parameter: str) -> None:
    assert (reply.status, reply.headers["X-Error-Code"]) == (400, "unsupported_parameter"), reply
    assert reply.body["error"]["param"] == parameter
