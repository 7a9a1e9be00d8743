"""A tenant whose objects others try to reach, and how to make a new object for each route with an id in its path."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import aiohttp
from sqlmodel import select

from journeys.support.admins import Admin, new_admin
from journeys.support.server import Server
from journeys.support.users import PASSWORD, ApiUser, add_user, login, new_user
from journeys.upstream.handle import scripted
from tollkeeper.db import Database
from tollkeeper.identity.models import Identity, IdentityProvider, TenantDomain
from tollkeeper.principal import Role

Ids = Mapping[str, Any]
"""The values of a path's parameters."""


class Sent(NamedTuple):
    """A response. `body` is without the correlation id, which differs between any two."""

    status: int
    body: Any


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody who sends requests, with a credential or without."""

    name: str
    http: aiohttp.ClientSession
    headers: Mapping[str, str]

    async def send(self, method: str, path: str, document: Any = None, query: Mapping[str, Any] | None = None) -> Sent:
        async with self.http.request(
            method, path, json=document, headers=self.headers, params=query, allow_redirects=False
        ) as response:
            is_json = "json" in response.headers.get("Content-Type", "")
            body = await response.json(content_type=None) if is_json else await response.text()
            if isinstance(body, dict):
                body.pop("correlation_id", None)
            return Sent(response.status, body)


def logged_in(name: str, caller: ApiUser | Admin) -> Actor:
    return Actor(name, caller.http, {"Authorization": f"Bearer {caller.token}"})


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant with a member, an administrator, and an API key of the member."""

    server: Server
    member: ApiUser
    key: ApiUser
    admin: Admin

    @property
    def id(self) -> int:
        return self.member.principal.tenant_id

    def actors(self) -> dict[str, Actor]:
        return {
            "member": logged_in("member", self.member),
            "API key": logged_in("API key", self.key),
            "tenant_admin": logged_in("tenant_admin", self.admin),
        }


@asynccontextmanager
async def new_tenant(server: Server) -> AsyncIterator[Tenant]:
    async with AsyncExitStack() as stack:
        member = await stack.enter_async_context(new_user(server))
        admin = await stack.enter_async_context(new_admin(server, tenant_id=member.principal.tenant_id))
        yield Tenant(server, member, await member.with_api_key(), admin)


async def user_of(victim: Tenant) -> int:
    """A new member of the tenant."""
    database = Database(victim.server.database_url)
    try:
        principal, _ = await add_user(database, victim.id, Role.MEMBER)
    finally:
        await database.close()
    return principal.user_id


async def _user(victim: Tenant) -> Ids:
    return {"user_id": await user_of(victim)}


async def _user_with_second_factor(victim: Tenant) -> Ids:
    database = Database(victim.server.database_url)
    try:
        principal, email = await add_user(database, victim.id)
    finally:
        await database.close()
    token = (await login(victim.member.http, email, PASSWORD)).body["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    async with victim.member.http.post("/auth/totp", headers=headers) as response:
        assert response.status == 201
    return {"user_id": principal.user_id}


async def _tenant(victim: Tenant) -> Ids:
    return {"tenant_id": victim.id}


async def _key(victim: Tenant) -> Ids:
    made = await victim.member.make_key()
    assert made.status == 201, made
    return {"key_id": made.body["id"]}


async def _session(victim: Tenant) -> Ids:
    assert (await login(victim.member.http, victim.member.email, PASSWORD)).status == 200
    return {"session_id": (await victim.member.get("/auth/sessions")).body["data"][0]["id"]}


async def _conversation(victim: Tenant) -> Ids:
    name = f"conversation-{secrets.token_hex(12)}"
    assert (await victim.member.query(scripted(victim.member.marker), session_id=name)).status == 200
    return {"session_id": name}


async def _charge(victim: Tenant) -> Ids:
    made = await victim.member.query(scripted(victim.member.marker, usage={"input": 15, "output": 9}))
    assert made.status == 200, made
    return {"charge_id": made.body["query_id"]}


async def _invitation(victim: Tenant) -> Ids:
    made = await victim.admin.post("/admin/invitations", {"email": f"{secrets.token_hex(8)}@example.com"})
    assert made.status == 201, made
    return {"invitation_id": made.body["id"]}


async def add_identity_provider(victim: Tenant) -> None:
    """Give the tenant an identity provider, if it has none."""
    database = Database(victim.server.database_url)
    try:
        async with database.session() as session:
            query = select(IdentityProvider).where(IdentityProvider.tenant_id == victim.id)
            if (await session.exec(query)).first() is None:
                session.add(_identity_provider(victim.id))
    finally:
        await database.close()


def _identity_provider(tenant_id: int) -> IdentityProvider:
    name = f"provider-{secrets.token_hex(6)}"
    return IdentityProvider(
        tenant_id=tenant_id,
        name=name,
        issuer=f"https://{name}.example.com",
        client_id="tollkeeper",
        scopes="openid email",
        created_ms=1,
    )


async def _domain(victim: Tenant) -> Ids:
    domain = f"{secrets.token_hex(12)}.example.com"
    database = Database(victim.server.database_url)
    try:
        async with database.session() as session:
            session.add(TenantDomain(domain=domain, tenant_id=victim.id, created_ms=1))
    finally:
        await database.close()
    return {"tenant_id": victim.id, "domain": domain}


async def _user_with_identity(victim: Tenant) -> Ids:
    await add_identity_provider(victim)
    user_id = await user_of(victim)
    database = Database(victim.server.database_url)
    try:
        async with database.session() as session:
            issuer = f"https://{secrets.token_hex(6)}.example.com"
            session.add(Identity(issuer=issuer, subject="x", tenant_id=victim.id, user_id=user_id, created_ms=1))
    finally:
        await database.close()
    return {"user_id": user_id}


@dataclass(frozen=True, slots=True)
class Row:
    """How to make the object of a path, and who may use it: a role of the object's tenant, or an operator. `document`
    is a body in place of the documented example.
    """

    make: Callable[[Tenant], Awaitable[Ids]]
    owner: str
    document: Any = None


ROWS = {
    "/auth/keys/{key_id}": Row(_key, "member"),
    "/auth/sessions/{session_id}": Row(_session, "member"),
    "/ai/sessions/{session_id}": Row(_conversation, "member"),
    "/me/charges/{charge_id}": Row(_charge, "member"),
    "/admin/tenants/{tenant_id}": Row(_tenant, "tenant_admin"),
    "/admin/keys/{key_id}": Row(_key, "tenant_admin"),
    "/admin/sessions/{session_id}": Row(_session, "tenant_admin"),
    "/admin/users/{user_id}": Row(_user, "tenant_admin"),
    "/admin/users/{user_id}/sessions": Row(_user, "tenant_admin"),
    "/admin/users/{user_id}/totp": Row(_user_with_second_factor, "tenant_admin"),
    "/admin/users/{user_id}/erase": Row(_user, "tenant_admin"),
    "/admin/users/{user_id}/reset": Row(_user, "tenant_admin"),
    "/admin/invitations/{invitation_id}": Row(_invitation, "tenant_admin"),
    "/admin/users/{user_id}/identities": Row(_user_with_identity, "tenant_admin"),
    "/admin/tenants/{tenant_id}/domains": Row(_tenant, "operator", {"domain": f"{secrets.token_hex(12)}.example.com"}),
    "/admin/tenants/{tenant_id}/domains/{domain}": Row(_domain, "operator"),
    "/admin/charges/{charge_id}": Row(_charge, "tenant_admin"),
    "/admin/charges/{charge_id}/refund": Row(_charge, "operator"),
}
"""Every path with an id in it."""
NOT_IDS = {
    "/docs/{asset}": "a file of the server",
    "/v1/models/{model_id}": "models belong to no tenant",
    "/admin/models/{name}/off": "models belong to no tenant",
    "/admin/models/{name}/on": "models belong to no tenant",
    "/admin/providers/{name}/off": "providers belong to no tenant",
    "/admin/providers/{name}/on": "providers belong to no tenant",
    "/admin/provider-keys/{provider}": "a provider's name; the tenant is in the query",
    "/auth/oidc/{name}/start": "a public name of a way to log in",
    "/auth/oidc/{name}/callback": "a public name of a way to log in",
}
"""Paths with parameters that name nothing of a tenant, and why not."""


def random_like(ids: Ids) -> Ids:
    """Ids of the same form that nothing has."""
    return {name: _random_like(value) for name, value in ids.items()}


def _random_like(value: Any) -> Any:
    if isinstance(value, int):
        return 2_000_000_000 + secrets.randbelow(100_000_000)
    return secrets.token_hex(6).join((value[:-24], value[-12:]))
