"""Users of a running server: added to its database from this process, as an administrator does, then logged in."""

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import aiohttp

from journeys.support.server import Server
from support.deadlines import TEST_DEADLINE_S
from support.factories import make_store, make_tenant
from tollkeeper.database.engine import Database
from tollkeeper.identity.models import User
from tollkeeper.identity.passwords import Passwords
from tollkeeper.principal import Principal, Role
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.limit_changes import SetLimit
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.page import QuotaKey, Subject
from tollkeeper.quota.rules.windows import Period

PASSWORD = "correct horse battery staple"
AMPLE_LIMIT = 10_000_000


class Reply(NamedTuple):
    """A response of the server, with its JSON body decoded."""

    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def code(self) -> str:
        """The stable code of an error, which is a problem document (RFC 9457)."""
        assert self.headers["Content-Type"] == "application/problem+json", self
        assert self.body["status"] == self.status
        assert self.body["correlation_id"] == self.headers["X-Correlation-ID"]
        return str(self.body["code"])


@dataclass(frozen=True, slots=True)
class ApiUser:
    """A user who is logged in. `marker` is a text that no other user has, to find the user's requests by."""

    principal: Principal
    email: str
    token: str
    marker: str
    http: aiohttp.ClientSession

    async def get(self, path: str) -> Reply:
        async with self.http.get(path, headers=self.auth_headers) as response:
            return await _reply(response)

    async def query(self, prompt: str, **fields: Any) -> Reply:
        """POST /ai/query."""
        return await self.query_with({}, prompt, **fields)

    async def query_with(self, headers: Mapping[str, str], prompt: str, **fields: Any) -> Reply:
        """POST /ai/query with further headers."""
        document = {"prompt": prompt, **fields}
        async with self.http.post("/ai/query", json=document, headers={**self.auth_headers, **headers}) as response:
            return await _reply(response)

    async def charges(self) -> list[dict[str, Any]]:
        """All charges of the user, the newest first."""
        page = (await self.get("/me/charges?limit=100")).body
        assert page["next_cursor"] is None
        found: list[dict[str, Any]] = page["data"]
        return found

    async def quota(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.get("/me/quota")).body
        return found

    async def make_key(self, **fields: Any) -> Reply:
        """POST /auth/keys."""
        async with self.http.post("/auth/keys", json={"name": "robot"} | fields, headers=self.auth_headers) as response:
            return await _reply(response)

    async def with_api_key(self, **fields: Any) -> "ApiUser":
        """The same user with a new API key in place of the access token."""
        made = await self.make_key(**fields)
        assert made.status == 201, made
        return replace(self, token=made.body["key"])

    @asynccontextmanager
    async def on_server(self, server: Server) -> AsyncIterator["ApiUser"]:
        """The same user with the same credential, on another server."""
        async with self.at(server.url) as moved:
            yield moved

    @asynccontextmanager
    async def at(self, url: str) -> AsyncIterator["ApiUser"]:
        """The same user with the same credential, at another URL."""
        async with http_client_at(url) as http:
            yield replace(self, http=http)

    @property
    def auth_headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


@asynccontextmanager
async def http_client(server: Server, address: str = "127.0.0.1") -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client that may open any number of connections, from the given local address."""
    async with http_client_at(server.url, address) as session:
        yield session


@asynccontextmanager
async def http_client_at(url: str, address: str = "127.0.0.1") -> AsyncIterator[aiohttp.ClientSession]:
    """The same for a server, or a proxy in front of servers, at this URL. At its end no socket is left open, also where
    a response came before the request was sent as a whole.
    """
    sockets: list[socket.socket] = []

    def open_socket(info: tuple[Any, ...]) -> socket.socket:
        sockets.append(socket.socket(*info[:3]))
        sockets[-1].setblocking(False)
        return sockets[-1]

    connector = aiohttp.TCPConnector(limit=0, local_addr=(address, 0), socket_factory=open_socket)
    async with aiohttp.ClientSession(
        url, connector=connector, timeout=aiohttp.ClientTimeout(total=TEST_DEADLINE_S)
    ) as session:
        yield session
    async with asyncio.timeout(TEST_DEADLINE_S):
        while still_open := [one for one in sockets if one.fileno() >= 0]:
            for one in still_open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            await asyncio.sleep(0)


@asynccontextmanager
async def new_user(
    server: Server,
    *,
    limit: int | None = AMPLE_LIMIT,
    period: Period = Period.TOTAL,
    tenant_id: int | None = None,
    tenant_limit: int | None = None,
) -> AsyncIterator[ApiUser]:
    """Add a member, by default of a new tenant, with a user quota and an optional tenant quota, and log in."""
    database = Database(server.database_url)
    try:
        principal, email = await add_user(database, tenant_id)
    finally:
        await database.close()
    if limit is not None:
        await set_limit(server, principal, limit, period)
    if tenant_limit is not None:
        await set_limit(server, principal, tenant_limit, period, of_tenant=True)
    async with http_client(server) as http:
        reply = await login(http, email, PASSWORD)
        assert reply.status == 200, reply
        yield ApiUser(principal, email, reply.body["access_token"], secrets.token_hex(8), http)


async def add_user(
    database: Database, tenant_id: int | None = None, role: Role = Role.MEMBER, *, email: str | None = None
) -> tuple[Principal, str]:
    """Add a user whose password is PASSWORD. Returns the principal and the e-mail address, by default a new one."""
    if tenant_id is None:
        tenant_id = await make_tenant(database, f"tenant-{secrets.token_hex(8)}")
    email = email or f"{secrets.token_hex(8)}@example.com"
    async with database.session() as session:
        password_hash = await asyncio.to_thread(_hash, PASSWORD)
        user = User(tenant_id=tenant_id, email=email, password_hash=password_hash, role=role.value)
        session.add(user)
        await session.flush()
        assert user.id is not None
        return Principal(user.id, tenant_id, role, 0), email


async def set_limit(
    server: Server,
    principal: Principal,
    limit: int,
    period: Period = Period.TOTAL,
    *,
    of_tenant: bool = False,
    unit: Unit = Unit.TOKENS,
) -> None:
    """Set a quota from this process, not through the server."""
    ledger = Ledger(make_store(server.database_url), lease_seconds=60)
    ledger.start()
    subject = Subject(principal.tenant_id, None if of_tenant else principal.user_id)
    try:
        await ledger.administer((SetLimit(QuotaKey(subject, unit, period), limit),), actor="test", reason="test")
    finally:
        await ledger.stop()


async def login(http: aiohttp.ClientSession, username: str, password: str) -> Reply:
    """POST /auth/login with a JSON body."""
    async with http.post("/auth/login", json={"username": username, "password": password}) as response:
        return await _reply(response)


async def _reply(response: aiohttp.ClientResponse) -> Reply:
    return Reply(response.status, await response.json(content_type=None), response.headers)


@cache
def _hash(password: str) -> str:
    passwords = Passwords(4)
    try:
        return asyncio.run(passwords.hash(password))
    finally:
        passwords.close()
