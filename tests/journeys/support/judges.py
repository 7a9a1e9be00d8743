"""Tenants whose answers are rated, and prompts that say how."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from journeys.support.admins import new_admin
from journeys.support.live_changes import until
from journeys.support.many_users import many_users
from journeys.support.provider_wires import MESSAGES
from journeys.support.server import Server
from journeys.support.users import ApiUser
from journeys.upstream.handle import scripted


def judged(marker: str, verdict: object, judge: str = MESSAGES.model, **script: Any) -> str:
    """A prompt whose answer the judge rates so."""
    text = verdict if isinstance(verdict, str) else json.dumps(verdict)
    return scripted(marker, by_model={judge: {"answer": text} | script})


async def set_judge(server: Server, caller: ApiUser, model: str | None, rubric: str | None = None) -> None:
    """Set the judge of the caller's tenant, and wait until it is in force."""
    tenant_id = caller.principal.tenant_id
    async with new_admin(server, tenant_id=tenant_id) as admin:
        changed = await admin.send(
            "PATCH", f"/admin/tenants/{tenant_id}", {"judge_model": model, "judge_rubric": rubric}
        )
        assert (changed.status, changed.body["judge_model"]) == (200, model), changed

    async def is_in_force() -> bool:
        reply = await caller.query("x", evaluate=True, context_allocation=1)
        return (reply.code == "unsupported_parameter") == (model is None)

    await until(is_in_force)


@asynccontextmanager
async def rated(server: Server, model: str = MESSAGES.model, rubric: str | None = None) -> AsyncIterator[ApiUser]:
    """A user whose tenant has a judge."""
    async with many_users(server, 1) as (caller,):
        await set_judge(server, caller, model, rubric)
        yield caller
