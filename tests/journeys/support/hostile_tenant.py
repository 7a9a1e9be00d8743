"""A tenant in which all that users can name is hostile markup, with a user of each role who looks at it."""

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from journeys.support.admins import Admin, new_admin
from journeys.support.documents import uploaded
from journeys.support.server import Server
from journeys.support.users import PASSWORD, ApiUser, Reply, new_user
from support.factories import make_tenant
from tollkeeper.database.engine import Database
from tollkeeper.principal import Role

HOSTILE = "</td><img src=x onerror=alert(1)>\"'&{{7*7}}"
HOSTILE_MODEL = "<img/src=x/onerror=alert(1)>"
PROVIDER_KEY = "sk-of-the-hostile-tenant-0123456789"


@dataclass(frozen=True, slots=True)
class HostileTenant:
    """Who looks, ids of what they look at, and what only the member may see: a prompt, and the whole of an API key."""

    member: ApiUser
    admin: Admin
    operator: Admin
    stranger: ApiUser
    charge: str
    group: int
    tag: int
    prompt: str
    api_key: str


@asynccontextmanager
async def hostile_tenant(server: Server) -> AsyncIterator[HostileTenant]:
    """Fill a new tenant. One of its models is switched off meanwhile."""
    database = Database(server.database_url)
    try:
        tenant = await make_tenant(database, f"{HOSTILE} {secrets.token_hex(8)}")
    finally:
        await database.close()
    async with AsyncExitStack() as stack:
        admin = await stack.enter_async_context(new_admin(server, tenant_id=tenant))
        operator = await stack.enter_async_context(new_admin(server, Role.OPERATOR))
        member = await stack.enter_async_context(new_user(server, tenant_id=tenant))
        stranger = await stack.enter_async_context(new_user(server))
        assert (await stranger.query("The stranger's question")).status == 200
        group, tag = await _administer(admin, member)
        prompt = f"{HOSTILE} {secrets.token_hex(8)}"
        charge, api_key = await _call(member, prompt)
        await _decide(admin)
        await _operate(operator, tenant, charge)
        try:
            yield HostileTenant(member, admin, operator, stranger, charge, group, tag, prompt, api_key)
        finally:
            _done(await operator.post("/admin/models/gpt-4.1-nano/on", None))


def _done(reply: Reply) -> Reply:
    assert reply.status < 300, reply
    return reply


async def _administer(admin: Admin, member: ApiUser) -> tuple[int, int]:
    group = int(_done(await admin.post("/admin/groups", {"name": "research"})).body["id"])
    path = f"/admin/groups/{group}/members/{member.principal.user_id}"
    _done(await admin.send("PUT", path, {"default": True}))
    tag = int(_done(await admin.post("/admin/tags", {"name": "run"})).body["id"])
    for owner in ({"group_id": group}, {"tag": "run=7"}, {"for_each": "user"}):
        quota = {"window": "day", "limit": 100_000, "reason": HOSTILE}
        _done(await admin.post("/admin/quotas", owner | quota))
    _done(await admin.post("/admin/alerts/rules", {"percents": [1], "kind": "user"}))
    rule = {"name": "names", "action": "flag", "words": [f"{HOSTILE} word"]}
    _done(await admin.send("PUT", "/admin/moderation", {"rules": [rule]}))
    _done(await admin.send("PUT", "/admin/provider-keys/openai", {"key": PROVIDER_KEY}))
    return group, tag


async def _call(member: ApiUser, prompt: str) -> tuple[str, str]:
    """Returns the id of a charge, and an API key."""
    async with member.http.post(
        "/auth/login", json={"username": member.email, "password": PASSWORD}, headers={"User-Agent": HOSTILE}
    ) as response:
        assert response.status == 200
    key = str(_done(await member.make_key(name=HOSTILE)).body["key"])
    tags = {"X-Tollkeeper-Tags": "run=7"}
    charge = str(_done(await member.query_with(tags, prompt, model=HOSTILE_MODEL)).body["query_id"])
    refused = await member.query(prompt, model=HOSTILE)
    assert refused.code == "invalid_request", refused
    await uploaded(member, f"The content of {HOSTILE}", f"{HOSTILE}.md", visibility="tenant")
    for window in ("day", "total"):
        ask = {"tokens": 1_000, "window": window, "reason": HOSTILE}
        async with member.http.post("/me/quota/requests", json=ask, headers=member.auth_headers) as response:
            assert response.status == 201, await response.text()
    return charge, key


async def _decide(admin: Admin) -> None:
    pending = (await admin.get("/admin/quota-requests")).body["data"]
    _done(await admin.post(f"/admin/quota-requests/{pending[0]['id']}/decline", {"reason": HOSTILE}))


async def _operate(operator: Admin, tenant: int, charge: str) -> None:
    plan = {"name": f"{HOSTILE} {secrets.token_hex(4)}", "calls_per_user": "6000/minute"}
    plan_id = _done(await operator.post("/admin/plans", plan)).body["id"]
    _done(await operator.post(f"/admin/tenants/{tenant}/plan", {"plan_id": plan_id, "reason": HOSTILE}))
    _done(await operator.post(f"/admin/charges/{charge}/refund", {"reason": HOSTILE}))
    _done(await operator.post("/admin/models/gpt-4.1-nano/off", {"reason": HOSTILE}))
