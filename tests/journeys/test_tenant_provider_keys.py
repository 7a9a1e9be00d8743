"""Tenants' own provider keys: which key each call carries, and that no key is ever shown."""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from journeys.support.admins import Admin, new_admin
from journeys.support.endpoints import ALL_ENDPOINTS, call
from journeys.support.live_changes import until
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.upstream.handle import Upstream, scripted
from tollkeeper.principal import Role

OPERATORS_KEY = "sk-of-the-operator"
MODELS = {"on-chat": "chatty", "on-messages": "messaging", "on-responses": "responding"}
REFUSED = "The AI provider refused your tenant's own key"
CATALOG = """
closed = true
default = "spread"

[providers.one]
kind = "openai"
base_url = "{upstream}/v1"
api_key_env = "OPENAI_API_KEY"

[providers.two]
kind = "anthropic"
base_url = "{upstream}"
api_key_env = "OPENAI_API_KEY"

[providers.voice]
kind = "echo"

[models.spread]
deployments = [{{provider = "one", model = "a"}}, {{provider = "two", model = "b"}}]
price = {{input = 1, output = 1}}

[models.chain]
provider = "one"
fallbacks = ["end"]

[models.end]
provider = "two"
"""


def new_key() -> str:
    return f"sk-tenant-{secrets.token_hex(12)}"


def key_of(request: dict[str, Any]) -> str:
    """The key that a request to the provider carries."""
    headers = {name.lower(): value for name, value in request["headers"].items()}
    return str(headers.get("x-api-key") or headers["authorization"].removeprefix("Bearer "))


@asynccontextmanager
async def new_tenant(server: Server) -> AsyncIterator[tuple[Admin, ApiUser]]:
    """An administrator of a new tenant, and a member of it with a quota."""
    async with new_admin(server) as admin, new_user(server, tenant_id=admin.principal.tenant_id) as member:
        yield admin, member


async def set_key(admin: Admin, provider: str, key: str) -> None:
    reply = await admin.send("PUT", f"/admin/provider-keys/{provider}", {"key": key})
    assert (reply.status, reply.body["suffix"]) == (200, key[-4:]), reply
    assert key not in str(reply.body)


async def until_carried(user: ApiUser, upstream: Upstream, model: str, key: str) -> None:
    """Wait until calls of the user carry the key."""

    async def is_carried() -> bool:
        marker = secrets.token_hex(8)
        assert (await user.query(marker, model=model)).status == 200
        return [key_of(request) for request in upstream.requests(marker)] == [key]

    await until(is_carried)


@pytest.fixture
def two_servers_one_upstream(
    make_server: Callable[..., Server], database_url: str, upstream: Upstream, tmp_path: Path
) -> tuple[Server, Server]:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG.format(upstream=upstream.anthropic_url))
    settings = {"TOLLKEEPER_CATALOG": str(catalog), "TOLLKEEPER_BREAKER_FAILURES": "2"}
    servers = tuple(make_server(database_url, name, **settings).start() for name in ("first", "second"))
    return servers[0], servers[1]


async def test_each_tenants_calls_carry_its_own_key_on_every_endpoint(
    all_wires_server: Server, upstream: Upstream
) -> None:
    async with new_tenant(all_wires_server) as (admin, ours), new_user(all_wires_server) as other:
        keys = {model: new_key() for model in MODELS}
        for model, provider in MODELS.items():
            await set_key(admin, provider, keys[model])
        for model in MODELS:
            await until_carried(ours, upstream, model, keys[model])
        for model in MODELS:
            for endpoint in ALL_ENDPOINTS:
                if not endpoint.returns_text:
                    continue
                for user, key in ((ours, keys[model]), (other, OPERATORS_KEY)):
                    marker = secrets.token_hex(8)
                    assert (await call(user, endpoint, marker, model)).status == 200
                    assert {key_of(one) for one in upstream.requests(marker)} == {key}, (endpoint, model)
        assert (await admin.send("DELETE", "/admin/provider-keys/chatty")).status == 204
        await until_carried(ours, upstream, "on-chat", OPERATORS_KEY)
        await until_carried(ours, upstream, "on-messages", keys["on-messages"])


async def test_a_rotated_key_replaces_the_old_one_in_every_process(
    two_servers_one_upstream: tuple[Server, Server], upstream: Upstream
) -> None:
    first, second = two_servers_one_upstream
    async with new_tenant(first) as (admin, user), user.on_server(second) as elsewhere:
        for key in (new_key(), new_key()):
            await set_key(admin, "one", key)
            await until_carried(user, upstream, "chain", key)
            await until_carried(elsewhere, upstream, "chain", key)


async def test_what_the_provider_refuses_to_a_tenants_key_concerns_only_that_tenant(
    two_servers_one_upstream: tuple[Server, Server], upstream: Upstream
) -> None:
    """Neither a circuit nor a deployment of the operator's key closes, and the operator's key is not used instead."""
    server, _ = two_servers_one_upstream
    async with new_tenant(server) as (admin, ours), new_user(server) as other:
        key = new_key()
        await set_key(admin, "one", key)
        await set_key(admin, "two", key)
        await until_carried(ours, upstream, "chain", key)
        await until_carried(ours, upstream, "end", key)
        for model in ("end", "chain", "spread"):
            for status in (401, 403):
                marker = secrets.token_hex(8)
                refused = await ours.query(scripted(marker, status=status), model=model)
                assert (refused.status, refused.code) == (502, "tenant_key_refused"), refused
                assert REFUSED in refused.body["detail"]
                assert key not in str(refused.body)
                assert {key_of(one) for one in upstream.requests(marker)} == {key}
        assert {(await other.query("hello", model="spread")).body["provider"] for _ in range(16)} == {"one", "two"}
        for _ in range(3):
            await ours.query(scripted(secrets.token_hex(8), status=500), model="end")
        assert (await other.query("hello", model="end")).status == 200


async def test_a_fallback_at_another_provider_carries_that_providers_key(
    two_servers_one_upstream: tuple[Server, Server], upstream: Upstream
) -> None:
    server, _ = two_servers_one_upstream
    async with new_tenant(server) as (admin, user):
        key = new_key()
        await set_key(admin, "two", key)
        await until_carried(user, upstream, "end", key)
        marker = secrets.token_hex(8)
        reply = await user.query(scripted(marker, by_model={"chain": {"status": 401}}), model="chain")
        assert reply.body["model"] == "end"
        assert [key_of(one) for one in upstream.requests(marker)] == [OPERATORS_KEY, key]
        for _ in range(8):
            marker = secrets.token_hex(8)
            provider = (await user.query(marker, model="spread")).body["provider"]
            (request,) = upstream.requests(marker)
            assert key_of(request) == (key if provider == "two" else OPERATORS_KEY)


async def test_keys_are_managed_within_the_walls_and_never_shown(server: Server) -> None:
    async with new_admin(server) as ours, new_admin(server) as others, new_admin(server, Role.OPERATOR) as operator:
        key = new_key()
        await set_key(ours, "openai", key)
        own, of_operator = "/admin/provider-keys", f"/admin/provider-keys?tenant_id={ours.principal.tenant_id}"
        for reader, path in ((ours, own), (operator, of_operator)):
            (listed,) = (await reader.get(path)).body["data"]
            assert set(listed) == {"tenant_id", "provider", "suffix", "created_at"}
            assert (listed["provider"], listed["suffix"]) == ("openai", key[-4:])
        assert (await others.get(own)).body["data"] == []
        for method, document in (("GET", None), ("PUT", {"key": new_key()}), ("DELETE", None)):
            path = "/admin/provider-keys/openai?tenant_id={}"
            foreign = await others.send(method, path.format(ours.principal.tenant_id), document)
            absent = await others.send(method, path.format(2_000_000_000), document)
            assert (foreign.status, foreign.code, absent.code) == (404, "not_found", "not_found")
            assert foreign.body["detail"] == absent.body["detail"]
        assert (await ours.get("/admin/provider-keys/openai")).body["suffix"] == key[-4:]
        assert (await ours.send("PUT", "/admin/provider-keys/unknown", {"key": key})).code == "not_found"
        for bad in ("short", "with space in the middle of it", "line\nfeed-0123456789", "ümlaut-0123456789abc"):
            refused = await ours.send("PUT", "/admin/provider-keys/openai", {"key": bad})
            assert (refused.status, refused.code) == (422, "invalid_request")
            assert bad not in str(refused.body)
        assert (await ours.send("DELETE", "/admin/provider-keys/openai")).status == 204
        assert (await ours.send("DELETE", "/admin/provider-keys/openai")).code == "not_found"
        audit = (await ours.get("/admin/audit")).body["data"]
        assert [act["action"] for act in audit][:2] == ["provider_key.delete", "provider_key.set"]
        assert key not in str(audit)
