"""Files and batches of a user, through the API."""

import asyncio
import io
import json
from typing import Any

import aiohttp

from journeys.support.users import ApiUser, Reply
from support.deadlines import TEST_DEADLINE_S

MODEL = "gpt-4o-mini"
CHAT = "/v1/chat/completions"
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
Line = dict[str, Any]
Object = dict[str, Any]


def chat_line(line_id: str, prompt: str, **fields: Any) -> Line:
    """A line of a batch of OpenAI's API."""
    body = {"model": MODEL, "max_tokens": 50, "messages": [{"role": "user", "content": prompt}]} | fields
    return {"custom_id": line_id, "method": "POST", "url": CHAT, "body": body}


def message(line_id: str, prompt: str, **fields: Any) -> Line:
    """A request of a batch of Anthropic's API."""
    params = {"model": MODEL, "max_tokens": 50, "messages": [{"role": "user", "content": prompt}]} | fields
    return {"custom_id": line_id, "params": params}


def jsonl(lines: list[Line]) -> bytes:
    return "".join(f"{json.dumps(line)}\n" for line in lines).encode()


async def request(caller: ApiUser, method: str, path: str, document: Any = None, **headers: str) -> Reply:
    """The body of the reply is decoded where it is JSON, and else bytes."""
    async with caller.http.request(method, path, json=document, headers=caller.auth_headers | headers) as response:
        return await reply_of(response)


async def upload(
    caller: ApiUser, content: bytes, purpose: str = "batch", name: str = "lines.jsonl", **more: str
) -> Reply:
    """POST /v1/files."""
    form = aiohttp.FormData()
    form.add_field("purpose", purpose)
    for field, value in more.items():
        form.add_field(field, value)
    form.add_field("file", io.BytesIO(content), filename=name, content_type="application/jsonl")
    async with caller.http.post("/v1/files", data=form, headers=caller.auth_headers) as response:
        return await reply_of(response)


async def uploaded(caller: ApiUser, lines: list[Line] | bytes) -> str:
    """The id of a new file with these lines."""
    reply = await upload(caller, lines if isinstance(lines, bytes) else jsonl(lines))
    assert reply.status == 200, reply
    return str(reply.body["id"])


async def create(caller: ApiUser, file_id: str, endpoint: str = CHAT, key: str | None = None, **fields: Any) -> Reply:
    """POST /v1/batches."""
    document = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h"} | fields
    headers = {} if key is None else {"Idempotency-Key": key}
    return await request(caller, "POST", "/v1/batches", document, **headers)


async def created(caller: ApiUser, file_id: str, endpoint: str = CHAT) -> Object:
    reply = await create(caller, file_id, endpoint)
    assert reply.status == 200, reply
    found: Object = reply.body
    return found


async def created_messages(caller: ApiUser, requests: list[Line]) -> Object:
    reply = await request(caller, "POST", "/v1/messages/batches", {"requests": requests})
    assert reply.status == 200, reply
    found: Object = reply.body
    return found


async def ended(caller: ApiUser, batch_id: str) -> Object:
    """The batch, once it has ended."""
    return await _wait(caller, f"/v1/batches/{batch_id}", "status", ENDED)


async def ended_messages(caller: ApiUser, batch_id: str) -> Object:
    return await _wait(caller, f"/v1/messages/batches/{batch_id}", "processing_status", {"ended"})


async def run(caller: ApiUser, lines: list[Line] | bytes, endpoint: str = CHAT) -> Object:
    """The batch of a new file with these lines, once it has ended."""
    return await ended(caller, (await created(caller, await uploaded(caller, lines), endpoint))["id"])


async def results(caller: ApiUser, batch: Object) -> dict[str, Object]:
    """All lines of results of a batch that has ended, by the ids of its requests."""
    found: dict[str, Object] = {}
    for field in ("output_file_id", "error_file_id"):
        if batch[field] is not None:
            reply = await request(caller, "GET", f"/v1/files/{batch[field]}/content")
            for line in map(json.loads, reply.body.splitlines()):
                assert line["custom_id"] not in found
                found[line["custom_id"]] = line
    return found


async def message_results(caller: ApiUser, batch_id: str) -> dict[str, Object]:
    reply = await request(caller, "GET", f"/v1/messages/batches/{batch_id}/results")
    assert reply.status == 200, reply
    return {line["custom_id"]: line["result"] for line in map(json.loads, reply.body.splitlines())}


async def _wait(caller: ApiUser, path: str, field: str, values: Any) -> Object:
    async with asyncio.timeout(TEST_DEADLINE_S):
        while True:
            reply = await request(caller, "GET", path)
            assert reply.status == 200, reply
            if reply.body[field] in values:
                found: Object = reply.body
                return found
            await asyncio.sleep(0.1)


async def reply_of(response: aiohttp.ClientResponse) -> Reply:
    """The reply, with its body decoded where it is JSON."""
    is_json = "json" in response.content_type and "jsonl" not in response.content_type
    return Reply(response.status, await response.json() if is_json else await response.read(), response.headers)
