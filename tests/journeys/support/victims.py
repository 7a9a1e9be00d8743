"""A tenant whose objects others try to reach, and how to make a new object for each route with an id in its path."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import aiohttp
from pydantic import SecretStr
from sqlmodel import select

from journeys.support import batches
from journeys.support.admins import Admin, new_admin
from journeys.support.documents import uploaded
from journeys.support.jobs import submitted
from journeys.support.server import DATA_KEY, Server
from journeys.support.users import PASSWORD, ApiUser, add_user, login, new_user
from journeys.upstream.handle import scripted
from tollkeeper.clock import SystemClock
from tollkeeper.contents.cipher import seal
from tollkeeper.contents.models import StoredContent
from tollkeeper.database.engine import Database
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.identity.models import Identity, IdentityProvider, TenantDomain
from tollkeeper.principal import Role
from tollkeeper.webhooks.models import WebhookDelivery

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


async def make_key(victim: Tenant) -> Ids:
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


async def _job(victim: Tenant) -> Ids:
    return {"job_id": await submitted(victim.member, scripted(victim.member.marker))}


async def _document(victim: Tenant) -> Ids:
    """A document of the member alone."""
    return {"document_id": await uploaded(victim.member, f"The notes of {victim.member.marker}.")}


async def _file(victim: Tenant) -> Ids:
    return {"file_id": await batches.uploaded(victim.member, [batches.chat_line("only", victim.member.marker)])}


async def _batch(victim: Tenant) -> Ids:
    return {"batch_id": (await batches.created(victim.member, (await _file(victim))["file_id"]))["id"]}


async def _message_batch(victim: Tenant) -> Ids:
    """A batch that has ended, so that it has results and can be deleted."""
    made = await batches.created_messages(victim.member, [batches.message("only", victim.member.marker)])
    await batches.ended_messages(victim.member, made["id"])
    return {"batch_id": made["id"]}


async def _charge(victim: Tenant) -> Ids:
    made = await victim.member.query(scripted(victim.member.marker, usage={"input": 15, "output": 9}))
    assert made.status == 200, made
    return {"charge_id": made.body["query_id"]}


async def make_group(victim: Tenant) -> Ids:
    owner = logged_in("tenant_admin", victim.admin)
    made = await owner.send("POST", "/admin/groups", {"name": f"group-{secrets.token_hex(8)}"})
    assert made.status == 201, made
    ids = {"group_id": made.body["id"], "user_id": victim.member.principal.user_id}
    path = "/admin/groups/{group_id}/members/{user_id}".format(**ids)
    assert (await owner.send("PUT", path, {})).status == 200
    return ids


async def make_tag(victim: Tenant) -> Ids:
    owner = logged_in("tenant_admin", victim.admin)
    made = await owner.send("POST", "/admin/tags", {"name": f"tag-{secrets.token_hex(8)}"})
    assert made.status == 201, made
    return {"tag_id": made.body["id"]}


async def _quota_request(victim: Tenant) -> Ids:
    asking = logged_in("member", victim.member)
    made = await asking.send("POST", "/me/quota/requests", {"tokens": 20_000, "window": "total", "reason": "a test"})
    assert made.status == 201, made
    return {"request_id": made.body["id"]}


async def _content(victim: Tenant) -> Ids:
    """The content of a call, stored as the task of a server would."""
    charge_id = f"chg_{secrets.token_hex(16)}"
    plain = b'{"messages": [], "answer": null, "error": null, "truncated": false}'
    database = Database(victim.server.database_url)
    keys = DataKeys(SecretStr(DATA_KEY))
    await keys.load(database, SystemClock())
    try:
        async with database.session() as session:
            row = StoredContent(
                tenant_id=victim.id,
                charge_id=charge_id,
                user_id=victim.member.principal.user_id,
                surface="query",
                provider="p",
                model="m",
                sealed_content=seal(keys, victim.id, charge_id, plain),
                created_ms=1,
            )
            session.add(row)
    finally:
        await database.close()
    return {"charge_id": charge_id}


async def _webhook(victim: Tenant) -> Ids:
    """A webhook on a port where nothing listens."""
    document = {"url": "http://127.0.0.1:1/hook", "events": ["batch.expired"]}
    made = await victim.admin.post("/admin/webhooks", document)
    assert made.status == 201, made
    return {"webhook_id": made.body["id"]}


async def _alert_rule(victim: Tenant) -> Ids:
    made = await victim.admin.post("/admin/alerts/rules", {"percents": [80]})
    assert made.status == 201, made
    return {"rule_id": made.body["id"]}


async def _delivery(victim: Tenant) -> Ids:
    """A delivery that has ended, as the upkeep would end it."""
    ids = await _webhook(victim)
    event_id = f"evt_{secrets.token_hex(16)}"
    database = Database(victim.server.database_url)
    try:
        async with database.session() as session:
            row = WebhookDelivery(
                tenant_id=victim.id,
                webhook_id=ids["webhook_id"],
                event_id=event_id,
                event_type="batch.expired",
                data="{}",
                status="dead",
                created_ms=1,
                since_ms=1,
                available_ms=1,
                completed_ms=SystemClock().now_ms(),
            )
            session.add(row)
    finally:
        await database.close()
    return {**ids, "delivery_id": event_id}


async def _statement(victim: Tenant) -> Ids:
    return {"tenant_id": victim.id, "month": datetime.now(UTC).strftime("%Y-%m")}


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
    "/admin/statements/{tenant_id}/{month}": Row(_statement, "tenant_admin"),
    "/auth/keys/{key_id}": Row(make_key, "member"),
    "/auth/sessions/{session_id}": Row(_session, "member"),
    "/ai/sessions/{session_id}": Row(_conversation, "member"),
    "/ai/jobs/{job_id}": Row(_job, "member"),
    "/ai/documents/{document_id}": Row(_document, "member"),
    "/v1/files/{file_id}": Row(_file, "member"),
    "/v1/files/{file_id}/content": Row(_file, "member"),
    "/v1/batches/{batch_id}": Row(_batch, "member"),
    "/v1/batches/{batch_id}/cancel": Row(_batch, "member"),
    "/v1/messages/batches/{batch_id}": Row(_message_batch, "member"),
    "/v1/messages/batches/{batch_id}/cancel": Row(_message_batch, "member"),
    "/v1/messages/batches/{batch_id}/results": Row(_message_batch, "member"),
    "/me/charges/{charge_id}": Row(_charge, "member"),
    "/admin/tenants/{tenant_id}": Row(_tenant, "tenant_admin"),
    "/admin/tenants/{tenant_id}/plan": Row(_tenant, "operator", {"plan_id": None, "reason": "a test"}),
    "/admin/keys/{key_id}": Row(make_key, "tenant_admin"),
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
    "/admin/alerts/rules/{rule_id}": Row(_alert_rule, "tenant_admin"),
    "/admin/charges/{charge_id}": Row(_charge, "tenant_admin"),
    "/admin/groups/{group_id}": Row(make_group, "tenant_admin"),
    "/admin/groups/{group_id}/members": Row(make_group, "tenant_admin"),
    "/admin/groups/{group_id}/members/{user_id}": Row(make_group, "tenant_admin"),
    "/admin/tags/{tag_id}": Row(make_tag, "tenant_admin"),
    "/admin/tags/{tag_id}/values": Row(make_tag, "tenant_admin"),
    "/admin/quota-requests/{request_id}": Row(_quota_request, "tenant_admin"),
    "/admin/quota-requests/{request_id}/grant": Row(_quota_request, "tenant_admin"),
    "/admin/quota-requests/{request_id}/decline": Row(_quota_request, "tenant_admin"),
    "/admin/contents/{charge_id}": Row(_content, "tenant_admin"),
    "/admin/charges/{charge_id}/refund": Row(_charge, "operator"),
    "/admin/webhooks/{webhook_id}": Row(_webhook, "tenant_admin"),
    "/admin/webhooks/{webhook_id}/rotate-secret": Row(_webhook, "tenant_admin"),
    "/admin/webhooks/{webhook_id}/test": Row(_webhook, "tenant_admin"),
    "/admin/webhooks/{webhook_id}/deliveries": Row(_webhook, "tenant_admin"),
    "/admin/webhooks/{webhook_id}/deliveries/{delivery_id}": Row(_delivery, "tenant_admin"),
    "/admin/webhooks/{webhook_id}/deliveries/{delivery_id}/replay": Row(_delivery, "tenant_admin"),
}
"""Every path with an id in it."""
NOT_IDS = {
    "/admin/plans/{plan_id}": "plans belong to no tenant",
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
