"""What a running server says of its health and of its providers' credentials, and to whom."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from journeys.support.admins import Admin, new_admin
from journeys.support.live_changes import until
from journeys.support.server import Server
from journeys.support.users import ApiUser, http_client, new_user
from journeys.upstream.handle import Upstream, scripted
from tollkeeper.principal import Role

pytestmark = pytest.mark.exhaustive_on_postgres

METRICS_TOKEN = "metrics-token-of-the-health-test"
STRANGERS_HEALTH = {
    "status": "degraded",
    "version": None,
    "provider": None,
    "calls_in_flight": None,
    "problems": None,
}
FAILURES = 4
CATALOG = """
closed = true
default = "one"

[providers.near]
kind = "openai"
base_url = "{upstream}/v1"
api_key_env = "OPENAI_API_KEY"

[providers.far]
kind = "openai"
base_url = "http://127.0.0.1:1/v1"

[models.one]
provider = "near"

[models.far-one]
provider = "far"
"""


@pytest.fixture
def health_server(make_server: Callable[..., Server], database_url: str, upstream: Upstream, tmp_path: Path) -> Server:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG.format(upstream=upstream.anthropic_url))
    return make_server(
        database_url,
        TOLLKEEPER_CATALOG=str(catalog),
        TOLLKEEPER_BREAKER_FAILURES=str(FAILURES),
        TOLLKEEPER_BREAKER_SECONDS="600",
        TOLLKEEPER_METRICS_TOKEN=METRICS_TOKEN,
        TOLLKEEPER_RATE_LIMIT_AI="off",
    ).start()


async def fetch(server: Server, path: str, token: str | None = None) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    async with http_client(server) as http, http.get(path, headers=headers) as response:
        return response.status, await response.json()


async def problems(operator: Admin) -> dict[str, dict[str, Any]]:
    """By the name of the check."""
    return {one["check"]: one for one in (await operator.get("/health")).body["problems"]}


async def credentials(operator: Admin) -> dict[str, list[dict[str, Any]]]:
    body = (await operator.get("/auth-status")).body
    return {one["provider"]: one["credentials"] for one in body["providers"]}


async def test_operators_see_why_and_everybody_else_only_that(health_server: Server, upstream: Upstream) -> None:
    async with (
        new_admin(health_server, Role.OPERATOR) as operator,
        new_admin(health_server) as admin,
        new_user(health_server, tenant_id=admin.principal.tenant_id) as user,
    ):
        assert await fetch(health_server, "/health") == (200, STRANGERS_HEALTH | {"status": "healthy"})
        healthy = (await operator.get("/health")).body
        assert (healthy["status"], healthy["problems"], healthy["provider"]) == ("healthy", [], "near")
        assert await fetch(health_server, "/auth-status") == (200, {"status": "unknown", "providers": None})
        unknown = await credentials(operator)
        assert {name: [one["type"] for one in found] for name, found in unknown.items()} == {
            "openai": ["api_key"],
            "near": ["api_key"],
            "far": ["none"],
        }
        await _follow_a_credential(operator, user, upstream)
        await _open_a_breaker(operator, user)
        shown = await fetch(health_server, "/health", METRICS_TOKEN)
        assert shown == (200, (await operator.get("/health")).body)
        for token in (None, admin.token, user.token, "wrong", "a.b.c", METRICS_TOKEN[:-1]):
            assert await fetch(health_server, "/health", token) == (200, STRANGERS_HEALTH)
            assert await fetch(health_server, "/auth-status", token) == (200, {"status": "valid", "providers": None})
        await _refuse_a_tenants_key(operator, admin, user)


async def _follow_a_credential(operator: Admin, user: ApiUser, upstream: Upstream) -> None:
    """Valid after an answer, invalid after a 401, and valid again after another answer; nothing else is sent."""
    assert (await user.query(user.marker)).status == 200
    valid = (await credentials(operator))["near"][0]
    assert valid["state"] == "valid"
    for status in (401, 403):
        assert (await user.query(scripted(user.marker, status=status))).code == "provider_auth_failed"
        invalid = (await credentials(operator))["near"][0]
        assert invalid["state"] == "invalid"
        assert invalid["since"] >= valid["since"]
        assert (await operator.get("/auth-status")).body["status"] == "invalid"
        problem = (await problems(operator))["credentials"]
        assert (problem["status"], problem["since"]) == ("degraded", invalid["since"])
        assert "near" in problem["detail"]
        assert (await user.query(user.marker)).status == 200
        assert (await credentials(operator))["near"][0]["state"] == "valid"
        assert await problems(operator) == {}
    assert (await user.query(scripted(user.marker, status=500))).status == 502
    assert (await credentials(operator))["near"][0]["state"] == "valid"
    assert len(upstream.requests(user.marker)) == 7


async def _open_a_breaker(operator: Admin, user: ApiUser) -> None:
    """Each call makes two attempts."""
    for _ in range(FAILURES // 2):
        assert (await user.query("hello", model="far-one")).code == "provider_unavailable"
    problem = (await problems(operator))["breakers"]
    assert (problem["status"], problem["detail"]) == (
        "degraded",
        "The provider far cannot be reached: most of its calls fail at once.",
    )
    assert (await operator.get("/health/ready")).body == {"status": "ok"}


async def _refuse_a_tenants_key(operator: Admin, admin: Admin, user: ApiUser) -> None:
    """It is shown to operators without a part of it, and makes nothing worse for others."""
    key = "sk-tenant-0123456789abcdef"
    assert (await admin.send("PUT", "/admin/provider-keys/near", {"key": key})).status == 200

    async def is_set() -> bool:
        return len((await credentials(operator))["near"]) == 2

    await until(is_set)
    assert (await credentials(operator))["near"][1]["state"] == "unknown"
    assert (await user.query(scripted(user.marker, status=401))).code == "tenant_key_refused"
    reply = await operator.get("/auth-status")
    own, of_tenant = next(one["credentials"] for one in reply.body["providers"] if one["provider"] == "near")
    assert (own["state"], own["tenant_id"]) == ("valid", None)
    assert (of_tenant["type"], of_tenant["state"]) == ("tenant_key", "invalid")
    assert of_tenant["tenant_id"] == admin.principal.tenant_id
    assert reply.body["status"] == "valid"
    assert key[-4:] not in str(reply.body)
    assert "sk-" not in str(reply.body)
    assert set(await problems(operator)) == {"breakers"}
