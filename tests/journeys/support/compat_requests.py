"""Requests to the compatible endpoints with any fields, and provider answers that are written out by hand."""

import json
from typing import Any

from journeys.support.client_formats import events_in
from journeys.support.users import ApiUser, Reply
from journeys.upstream.handle import scripted

CHAT_PATH, RESPONSES_PATH, MESSAGES_PATH = "/v1/chat/completions", "/v1/responses", "/v1/messages"


async def post(caller: ApiUser, path: str, **document: Any) -> Reply:
    async with caller.http.post(path, json=document, headers=caller.auth_headers) as response:
        return Reply(response.status, await response.json(content_type=None), response.headers)


async def events(caller: ApiUser, path: str, **document: Any) -> list[dict[str, Any]]:
    """The events of a streamed call as JSON, without `[DONE]`."""
    async with caller.http.post(path, json=document | {"stream": True}, headers=caller.auth_headers) as response:
        assert response.status == 200, await response.text()
        return [event.document for event in events_in(await response.read()) if event.data != "[DONE]"]


def user_messages(prompt: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}]}


def answer_prompt(
    marker: str, *deltas: dict[str, Any], finish: str = "stop", whole: dict[str, Any] | None = None
) -> str:
    """The prompt that makes the upstream answer on the chat wire with this message or these deltas, without usage."""
    if whole is not None:
        return scripted(marker, json={"choices": [{"message": whole, "finish_reason": finish}]})
    choices: list[dict[str, Any]] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": finish})
    raw = "".join(f"data: {json.dumps({'choices': [choice]})}\n\n" for choice in choices) + "data: [DONE]\n\n"
    return scripted(marker, raw=raw, headers={"Content-Type": "text/event-stream"})


def assert_refused(reply: Reply, parameter: str) -> None:
    assert (reply.status, reply.headers["X-Error-Code"]) == (400, "unsupported_parameter"), reply
    assert reply.body["error"]["param"] == parameter
