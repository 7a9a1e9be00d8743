"""Users of tenants with a moderation policy, which is in force on the server when they are yielded."""

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from journeys.support.live_changes import until
from journeys.support.many_users import many_users
from journeys.support.server import Server
from journeys.support.users import ApiUser
from tollkeeper.configuration.models import ModerationPolicy
from tollkeeper.database.engine import Database
from tollkeeper.moderation.documents import PolicyDocument, write_document


def policy(*rules: dict[str, Any], **fields: Any) -> PolicyDocument:
    """The policy with these rules; and one that blocks a word of its own, by which it is known to be in force."""
    word = f"probe-{secrets.token_hex(4)}"
    probe = {"name": "probe", "action": "block", "words": [word], "stages": ["input"]}
    return msgspec.convert({"rules": [*rules, probe], **fields}, PolicyDocument)


async def set_policies(server: Server, callers: Sequence[ApiUser], document: PolicyDocument) -> None:
    """Set the policy of the callers' tenants from this process, as the command does, and wait until it is in force."""
    database = Database(server.database_url)
    stored, now_ms = write_document(document), int(time.time() * 1000)
    try:
        async with database.session() as session:
            for caller in callers:
                await session.merge(
                    ModerationPolicy(tenant_id=caller.principal.tenant_id, document=stored, changed_ms=now_ms)
                )
    finally:
        await database.close()

    (word,) = document.rules[-1].words or ()

    async def is_in_force() -> bool:
        return (await callers[-1].query(word, context_allocation=1)).status == 400

    await until(is_in_force)


@asynccontextmanager
async def moderated_users(server: Server, count: int, document: PolicyDocument) -> AsyncIterator[list[ApiUser]]:
    """Users with a tenant each. One more user has tried the policy before."""
    async with many_users(server, count + 1) as callers:
        await set_policies(server, callers, document)
        yield callers[:-1]
