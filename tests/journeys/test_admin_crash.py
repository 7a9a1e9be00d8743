"""The server is killed between the audit log's commit and the ledger's, or after both: a repeated request acts once."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from journeys.support.admins import Admin, new_admin
from journeys.support.failpoints import AFTER_ADMINISTRATIVE_COMMIT, BEFORE_ADMINISTRATIVE_COMMIT
from journeys.support.server import SERVE, Server
from journeys.support.users import ApiUser, Reply, http_client, new_user
from journeys.test_admin_quotas import acts
from journeys.upstream.handle import Upstream
from tollkeeper.principal import Role

pytestmark = pytest.mark.exhaustive_on_postgres

SIGKILLED = -9


@pytest.fixture
def crashing(make_server: Callable[..., Server], database_url: str, own_upstream: Upstream) -> Server:
    """A server that is not started."""
    return make_server(database_url, OPENAI_BASE_URL=own_upstream.base_url)


def dying_at(point: str) -> tuple[str, ...]:
    return "journeys.support.failpoints", point, "1"


async def send(server: Server, admin: Admin, path: str, sent: dict[str, Any]) -> Reply:
    """A request on a new connection: those to the server before are closed."""
    async with http_client(server) as http:
        return await replace(admin, http=http).post(path, sent, Idempotency_Key=path)


async def quota_of(server: Server, member: ApiUser) -> dict[str, Any]:
    async with member.on_server(server) as reconnected:
        return await reconnected.quota()


async def acts_of(server: Server, admin: Admin) -> list[dict[str, Any]]:
    async with http_client(server) as http:
        return await acts(replace(admin, http=http))


async def repeat_until_it_answers(server: Server, admin: Admin, path: str, sent: dict[str, Any]) -> dict[str, Any]:
    """Send a request to servers that die before and after the ledger's commit, and to one that lives, twice."""
    for point in (BEFORE_ADMINISTRATIVE_COMMIT, AFTER_ADMINISTRATIVE_COMMIT):
        server.start(dying_at(point))
        with pytest.raises(aiohttp.ClientError):
            await send(server, admin, path, sent)
        assert server.program.wait_for_end() == SIGKILLED, point
    server.start(SERVE)
    first, second = [await send(server, admin, path, sent) for _ in range(2)]
    assert (first.status, second.body) == (200, first.body), first
    body: dict[str, Any] = first.body
    return body


async def test_a_grant_and_a_refund_that_are_repeated_after_each_crash_act_once_and_are_noted_once(
    crashing: Server,
) -> None:
    crashing.start(SERVE)
    async with (
        new_admin(crashing, Role.OPERATOR) as admin,
        new_user(crashing, tenant_id=admin.principal.tenant_id, limit=10_000) as member,
    ):
        charge_id = (await member.query("Hello")).body["query_id"]
        crashing.stop()
        sent = {"user_id": member.principal.user_id, "amount": 70, "reason": "a crash"}
        granted = await repeat_until_it_answers(crashing, admin, "/admin/quotas/grant", sent)
        assert granted["quota"]["limit"] == (await quota_of(crashing, member))["limit"] == 10_070
        (line,) = await acts_of(crashing, admin)
        assert (line["action"], line["after"]["operation"]) == ("quota.grant", granted["operation"])
        crashing.stop()
        path = f"/admin/charges/{charge_id}/refund"
        refunded = await repeat_until_it_answers(crashing, admin, path, {"reason": "a crash"})
        assert [entry["kind"] for entry in refunded["entries"]].count("refund") == 1
        assert (await quota_of(crashing, member))["used"] == 0
        assert [line["action"] for line in await acts_of(crashing, admin)] == ["charge.refund", "quota.grant"]
        assert "Clean:" in crashing.command("ledger", "verify")
        assert "Clean:" in crashing.command("audit", "verify")
    crashing.stop()
