"""Background jobs of a user, through the API."""

import asyncio
from typing import Any

from journeys.support.users import ApiUser, Reply
from support.deadlines import TEST_DEADLINE_S

ENDED = frozenset({"completed", "failed", "cancelled"})
Job = dict[str, Any]


async def submit(caller: ApiUser, prompt: str, *, key: str | None = None, priority: int = 0, **fields: Any) -> Reply:
    """POST /ai/jobs, with a prompt."""
    document = {"type": "query", "request": {"prompt": prompt} | fields, "priority": priority}
    headers = caller.auth_headers | ({"Idempotency-Key": key} if key is not None else {})
    async with caller.http.post("/ai/jobs", json=document, headers=headers) as response:
        return Reply(response.status, await response.json(content_type=None), response.headers)


async def submitted(caller: ApiUser, prompt: str, **fields: Any) -> str:
    """The id of a new job."""
    reply = await submit(caller, prompt, **fields)
    assert (reply.status, reply.body["status"]) == (202, "pending"), reply
    return str(reply.body["job_id"])


async def cancel(caller: ApiUser, job_id: str) -> Reply:
    """DELETE /ai/jobs/{job_id}."""
    async with caller.http.delete(f"/ai/jobs/{job_id}", headers=caller.auth_headers) as response:
        return Reply(response.status, await response.json(content_type=None), response.headers)


async def read(caller: ApiUser, job_id: str) -> Job:
    reply = await caller.get(f"/ai/jobs/{job_id}")
    assert reply.status == 200, reply
    found: Job = reply.body
    return found


async def wait_until(caller: ApiUser, job_id: str, *statuses: str) -> Job:
    """The job, once it has one of these statuses."""
    async with asyncio.timeout(TEST_DEADLINE_S):
        while True:
            job = await read(caller, job_id)
            if job["status"] in statuses:
                return job
            assert job["status"] not in ENDED, job
            await asyncio.sleep(0.05)


async def ended(caller: ApiUser, job_id: str) -> Job:
    return await wait_until(caller, job_id, *ENDED)
