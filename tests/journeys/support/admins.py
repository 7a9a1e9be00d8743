"""Administrators of a running server, and their requests."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from journeys.support.server import Server
from journeys.support.users import PASSWORD, Reply, add_user, http_client, login
from tollkeeper.database.engine import Database
from tollkeeper.principal import Principal, Role


@dataclass(frozen=True, slots=True)
class Admin:
    """An administrator who is logged in."""

    principal: Principal
    email: str
    token: str
    http: aiohttp.ClientSession

    async def send(
        self, method: str, path: str, document: Any = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """A request with this administrator's token, and a JSON body if there is a document."""
        sent = {"Authorization": f"Bearer {self.token}"} | dict(headers or {})
        async with self.http.request(method, path, json=document, headers=sent) as response:
            body = await response.json(content_type=None) if response.status != 204 else None
            return Reply(response.status, body, response.headers)

    async def get(self, path: str) -> Reply:
        return await self.send("GET", path)

    async def post(self, path: str, document: Any, **headers: str) -> Reply:
        return await self.send("POST", path, document, {name.replace("_", "-"): headers[name] for name in headers})

    async def patch(self, path: str, document: Any, **headers: str) -> Reply:
        return await self.send("PATCH", path, document, {name.replace("_", "-"): headers[name] for name in headers})


@asynccontextmanager
async def new_admin(
    server: Server, role: Role = Role.TENANT_ADMIN, *, tenant_id: int | None = None
) -> AsyncIterator[Admin]:
    """Add a user with this role, by default of a new tenant, and log in."""
    database = Database(server.database_url)
    try:
        principal, email = await add_user(database, tenant_id, role)
    finally:
        await database.close()
    async with http_client(server) as http:
        reply = await login(http, email, PASSWORD)
        assert reply.status == 200, reply
        yield Admin(principal, email, reply.body["access_token"], http)
