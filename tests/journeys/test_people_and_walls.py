"""Two customers from nothing, over the API alone: people, keys, quotas, single sign-on; and the audit log tells it."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from journeys.support.admins import Admin, new_admin
from journeys.support.openid import FakeProvider, fake_provider, new_browser, provider_document
from journeys.support.server import Server
from journeys.support.users import PASSWORD, Reply, http_client, login
from journeys.upstream.handle import Upstream, scripted
from tollkeeper.principal import Role

USAGE = {"input": 15, "output": 9}
TENANTS_KEY = "sk-of-this-tenant-0123456789abcdef"


class Person:
    """Someone with a token, and a connection of their own."""

    def __init__(self, http: aiohttp.ClientSession, token: str) -> None:
        self._http, self._token = http, token

    async def send(self, method: str, path: str, document: Any = None, **further: str) -> Reply:
        headers = {"Authorization": f"Bearer {self._token}"} | further
        async with self._http.request(method, path, json=document, headers=headers) as response:
            body = await response.json(content_type=None) if response.status != 204 else None
            return Reply(response.status, body, response.headers)

    async def must(self, status: int, method: str, path: str, document: Any = None, **further: str) -> Any:
        """The body of a response, which must have this status. `further` are headers."""
        reply = await self.send(method, path, document, **further)
        assert reply.status == status, (method, path, reply)
        return reply.body


@asynccontextmanager
async def two_tenants(server: Server, operator: Admin) -> AsyncIterator[tuple[Person, int, Person, int]]:
    """Two tenants that the operator creates, each with an administrator who was invited and has set a password."""
    async with http_client(server) as http:
        made: list[Any] = []
        for _ in range(2):
            tenant = (await operator.post("/admin/tenants", {"name": f"customer-{secrets.token_hex(8)}"})).body
            quota = {"tenant_id": tenant["id"], "window": "month", "limit": 100_000, "reason": "contract"}
            assert (await operator.post("/admin/quotas", quota)).status == 200
            email = f"{secrets.token_hex(8)}@example.com"
            invitation = {"email": email, "role": "tenant_admin", "tenant_id": tenant["id"]}
            token = (await operator.post("/admin/invitations", invitation)).body["token"]
            accepted = {"token": token, "password": PASSWORD}
            async with http.post("/auth/invitations", json=accepted) as response:
                assert response.status in (200, 201, 204), await response.text()
            logged_in = await login(http, email, PASSWORD)
            made += [Person(http, logged_in.body["access_token"]), tenant["id"]]
        yield made[0], made[1], made[2], made[3]


async def sign_on(server: Server, operator: Admin, admin: Person, tenant_id: int, provider: FakeProvider) -> str:
    """Set up single sign-on for a tenant. Returns the name that is in its URLs."""
    domain = {"domain": provider.domain}
    assert (await operator.post(f"/admin/tenants/{tenant_id}/domains", domain)).status == 201
    name = f"idp-{secrets.token_hex(8)}"
    await admin.must(200, "PUT", "/admin/identity-provider", provider_document(provider, name))
    return name


async def test_an_operator_sets_up_two_customers_who_then_run_their_own_house(
    server: Server, upstream: Upstream
) -> None:
    async with (
        new_admin(server, Role.OPERATOR) as operator,
        fake_provider() as provider,
        new_browser(server) as browser,
        two_tenants(server, operator) as (first, first_id, second, second_id),
    ):
        name = await sign_on(server, operator, second, second_id, provider)
        location = await browser.start(name, "?fresh=true")
        signed_on = await browser.open(provider.log_in(location, "admin-1", groups=["ai-admins"]))
        assert signed_on.status == 200, signed_on
        async with http_client(server) as http:
            by_sso = Person(http, signed_on.body["access_token"])
            marker = secrets.token_hex(8)
            member = await by_sso.must(
                201, "POST", "/admin/users", {"email": f"{marker}@example.com", "password": PASSWORD}
            )
            robot = await by_sso.must(201, "POST", "/admin/users", {"kind": "service", "name": "nightly"})
            for user in (member, robot):
                quota = {"user_id": user["id"], "window": "day", "limit": 1_000, "reason": "start"}
                await by_sso.must(200, "POST", "/admin/quotas", quota)
            key = await by_sso.must(
                201, "POST", "/admin/keys", {"user_id": robot["id"], "name": "cron", "scopes": ["ai"]}
            )
            await by_sso.must(200, "PUT", "/admin/provider-keys/openai", {"key": TENANTS_KEY})
            answer = await Person(http, key["key"]).must(
                200, "POST", "/ai/query", {"prompt": scripted(marker, usage=USAGE)}
            )
            assert answer["cost"] == 24

            link = await by_sso.must(201, "POST", f"/admin/users/{member['id']}/reset", {})
            new_password = "another correct horse battery"
            async with http.post("/auth/reset", json={"token": link["token"], "password": new_password}) as response:
                assert response.status in (200, 204), await response.text()
            session = await login(http, member["email"], new_password)
            mine = Person(http, session.body["access_token"])
            (listed,) = (await by_sso.must(200, "GET", f"/admin/users/{member['id']}/sessions"))["data"]
            await by_sso.must(204, "DELETE", f"/admin/sessions/{listed['id']}")
            assert (await mine.send("GET", "/me")).status == 401

            for method, path in (
                ("GET", f"/admin/users/{member['id']}"),
                ("PATCH", f"/admin/users/{member['id']}"),
                ("DELETE", f"/admin/keys/{key['id']}"),
                ("GET", f"/admin/quotas?user_id={member['id']}"),
                ("GET", f"/admin/charges/{answer['query_id']}"),
            ):
                refused = await first.send(method, path, {"disabled": True} if method == "PATCH" else None)
                assert (refused.status, refused.code) == (404, "not_found"), (method, path)
            own_quota = {"tenant_id": second_id, "window": "month", "limit": 10**9, "reason": "more"}
            assert (await by_sso.send("POST", "/admin/quotas", own_quota)).status == 403

            told = (await by_sso.must(200, "GET", "/admin/audit?limit=100"))["data"]
        actions = [line["action"] for line in reversed(told)]
        for expected in ("tenant.create", "login", "user.create", "key.create"):
            assert expected in actions, actions
        assert {line["tenant_id"] for line in told} == {second_id}
        text = str(told)
        assert marker not in text, "an e-mail address"
        assert TENANTS_KEY not in text
        assert key["key"] not in text
        assert len(await audit_of(first)) < len(told)
        assert first_id not in {line["tenant_id"] for line in told}
    assert "Clean" in server.command("ledger", "verify")
    assert server.command("audit", "verify")


async def audit_of(admin: Person) -> list[Any]:
    lines: list[Any] = (await admin.must(200, "GET", "/admin/audit?limit=100"))["data"]
    return lines
