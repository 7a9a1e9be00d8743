"""People who log in several times, and what they do with their tokens."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from journeys.support.server import Server
from journeys.support.users import AMPLE_LIMIT, PASSWORD, Reply, add_user, http_client, set_limit
from tollkeeper.database.engine import Database
from tollkeeper.principal import Principal, Role


@dataclass(frozen=True, slots=True)
class Person:
    """A user who is not logged in yet."""

    principal: Principal
    email: str
    http: aiohttp.ClientSession

    async def send(
        self,
        method: str,
        path: str,
        document: Any = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """A request with this access token, if one is given, and a JSON body, if there is a document."""
        sent = dict(headers or {}) | ({"Authorization": f"Bearer {token}"} if token is not None else {})
        async with self.http.request(method, path, json=document, headers=sent) as response:
            body = await response.json(content_type=None) if response.status != 204 else None
            return Reply(response.status, body, response.headers)

    async def try_login(self, **fields: Any) -> Reply:
        document = {"username": self.email, "password": PASSWORD} | fields
        return await self.send("POST", "/auth/login", document)

    async def log_in(self, **fields: Any) -> dict[str, Any]:
        """The tokens of a new session."""
        reply = await self.try_login(**fields)
        assert reply.status == 200, reply
        body: dict[str, Any] = reply.body
        return body

    async def refresh(self, refresh_token: str) -> Reply:
        return await self.send("POST", "/auth/refresh", {"refresh_token": refresh_token})

    async def is_accepted(self, token: str) -> bool:
        """Whether the access token is accepted where accounts are read, and where calls are reserved."""
        reads = (await self.send("GET", "/me", token=token)).status
        calls = (await self.send("POST", "/ai/query", {"prompt": "hello"}, token=token)).status
        assert (reads, calls) in {(200, 200), (401, 401)}, (reads, calls)
        return reads == 200

    async def sessions(self, token: str) -> list[dict[str, Any]]:
        reply = await self.send("GET", "/auth/sessions", token=token)
        found: list[dict[str, Any]] = reply.body["data"]
        return found


@asynccontextmanager
async def new_person(
    server: Server, role: Role = Role.MEMBER, *, tenant_id: int | None = None
) -> AsyncIterator[Person]:
    """Add a user, by default of a new tenant, with an ample quota."""
    database = Database(server.database_url)
    try:
        principal, email = await add_user(database, tenant_id, role)
    finally:
        await database.close()
    await set_limit(server, principal, AMPLE_LIMIT)
    async with http_client(server) as http:
        yield Person(principal, email, http)
