"""Documents of a user, through the API."""

import asyncio
import io
from typing import Any

from journeys.support.users import ApiUser, Reply
from support.deadlines import TEST_DEADLINE_S

Document = dict[str, Any]
DONE = frozenset({"ready", "failed"})


async def upload(
    caller: ApiUser,
    content: bytes | str,
    name: str = "notes.txt",
    *,
    media_type: str = "",
    key: str | None = None,
    **query: str,
) -> Reply:
    """POST /ai/documents."""
    headers = caller.auth_headers | {"Content-Type": media_type or "application/octet-stream"}
    headers |= {"Idempotency-Key": key} if key is not None else {}
    body = io.BytesIO(content.encode() if isinstance(content, str) else content)
    async with caller.http.post(
        "/ai/documents", params={"name": name, **query}, data=body, headers=headers
    ) as response:
        return Reply(response.status, await response.json(content_type=None), response.headers)


async def read(caller: ApiUser, document_id: str) -> Document:
    reply = await caller.get(f"/ai/documents/{document_id}")
    assert reply.status == 200, reply
    found: Document = reply.body
    return found


async def wait_for(caller: ApiUser, document_id: str, *statuses: str) -> Document:
    """The document, once it has one of these statuses."""
    async with asyncio.timeout(TEST_DEADLINE_S):
        while (document := await read(caller, document_id))["status"] not in statuses:
            assert document["status"] not in DONE, document
            await asyncio.sleep(0.05)
    return document


async def wait_for_error(caller: ApiUser, document_id: str, code: str) -> None:
    """Wait until the document waits because of this error."""
    async with asyncio.timeout(TEST_DEADLINE_S):
        while (document := await read(caller, document_id))["error"] is None:
            assert document["status"] not in DONE, document
            await asyncio.sleep(0.05)
    assert document["error"]["code"] == code


async def uploaded(caller: ApiUser, content: bytes | str, name: str = "notes.txt", **query: str) -> str:
    """The id of a new document that is ready."""
    reply = await upload(caller, content, name, **query)
    assert reply.status == 202, reply
    document_id = str(reply.body["document_id"])
    await wait_for(caller, document_id, "ready")
    return document_id


async def delete(caller: ApiUser, document_id: str) -> int:
    """DELETE /ai/documents/{document_id}. Returns the status."""
    async with caller.http.delete(f"/ai/documents/{document_id}", headers=caller.auth_headers) as response:
        return response.status


async def search(caller: ApiUser, query: str, **fields: Any) -> Reply:
    """POST /ai/search."""
    async with caller.http.post("/ai/search", json={"query": query, **fields}, headers=caller.auth_headers) as response:
        return Reply(response.status, await response.json(content_type=None), response.headers)
