"""Many users, added in one transaction. Each has a tenant and a quota of their own, and is logged in."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from journeys.support.server import Server
from journeys.support.users import AMPLE_LIMIT, PASSWORD, ApiUser, http_client, login
from support.factories import make_store
from tollkeeper.database.engine import Database
from tollkeeper.identity.models import Tenant, User
from tollkeeper.identity.passwords import Passwords
from tollkeeper.principal import Principal, Role
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.limit_changes import SetLimit
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.page import QuotaKey, Subject
from tollkeeper.quota.rules.windows import Period

LOGINS_AT_ONCE = 16
"""More at a time would wait for the database longer than the server lets them."""


@asynccontextmanager
async def many_users(server: Server, count: int, limit: int | None = AMPLE_LIMIT) -> AsyncIterator[list[ApiUser]]:
    """Add and log in `count` users, without any quota if `limit` is None. They share one HTTP client."""
    users = await _add_users(server, count)
    if limit is not None:
        await _grant(server, [Subject(user.tenant_id, user.user_id) for user, _ in users], limit)
    async with http_client(server) as http:
        tokens: list[str] = []
        for start in range(0, count, LOGINS_AT_ONCE):
            some = users[start : start + LOGINS_AT_ONCE]
            tokens += await asyncio.gather(*(_token_of(http, email) for _, email in some))
        yield [
            ApiUser(user, email, token, f"m{secrets.token_hex(8)}", http)
            for (user, email), token in zip(users, tokens, strict=True)
        ]


async def _token_of(http: aiohttp.ClientSession, email: str) -> str:
    reply = await login(http, email, PASSWORD)
    assert reply.status == 200, reply
    return str(reply.body["access_token"])


async def _add_users(server: Server, count: int) -> list[tuple[Principal, str]]:
    """Add users with the password PASSWORD, each in a new tenant. Returns principals and e-mail addresses."""
    passwords, database = Passwords(4), Database(server.database_url)
    try:
        password_hash = await passwords.hash(PASSWORD)
        names = [secrets.token_hex(8) for _ in range(count)]
        async with database.session() as session:
            tenants = [Tenant(name=f"tenant-{name}") for name in names]
            session.add_all(tenants)
            await session.flush()
            users = [
                User(tenant_id=tenant.id or 0, email=f"{name}@example.com", password_hash=password_hash)
                for name, tenant in zip(names, tenants, strict=True)
            ]
            session.add_all(users)
            await session.flush()
            return [(Principal(user.id or 0, user.tenant_id, Role.MEMBER, 0), user.email) for user in users]
    finally:
        await database.close()
        passwords.close()


async def _grant(server: Server, subjects: list[Subject], limit: int) -> None:
    """Set the limit of every subject from this process, not through the server."""
    ledger = Ledger(make_store(server.database_url), lease_seconds=60)
    ledger.start()
    limits = tuple(SetLimit(QuotaKey(subject, Unit.TOKENS, Period.TOTAL), limit) for subject in subjects)
    try:
        await ledger.administer(limits, actor="test", reason="test")
    finally:
        await ledger.stop()
