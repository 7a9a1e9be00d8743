"""The server is killed between the crossing of a share and the delivery of its alert: it fires once all the same."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import aiohttp
import pytest

from journeys.support.admins import new_admin
from journeys.support.failpoints import AFTER_ALERT_COMMIT, AFTER_SETTLE_COMMIT, BEFORE_ALERT_COMMIT
from journeys.support.live_changes import until
from journeys.support.server import SERVE, Server
from journeys.support.users import ApiUser, http_client, new_user
from journeys.test_alerts import RULES, shares
from journeys.upstream.handle import Upstream, scripted
from support.receivers import receiving
from tollkeeper.alerts.task import QuotaAlerts
from tollkeeper.clock import SystemClock
from tollkeeper.database.engine import Database

pytestmark = pytest.mark.prove_only

SIGKILLED = -9


@pytest.fixture
def crashing(make_server: Callable[..., Server], database_url: str, own_upstream: Upstream) -> Server:
    """A server that is not started, and looks for alerts every second."""
    settings = {"TOLLKEEPER_SWEEP_SECONDS": "1", "TOLLKEEPER_PRIVATE_NETWORKS": "127.0.0.0/8"}
    return make_server(database_url, OPENAI_BASE_URL=own_upstream.base_url, **settings)


async def spend(server: Server, member: ApiUser, tokens: int) -> int:
    async with member.on_server(server) as caller:
        usage = {"prompt_tokens": tokens - 1, "completion_tokens": 1}
        return (await caller.query(scripted(caller.marker, usage=usage), max_tokens=20)).status


async def test_an_alert_is_delivered_once_wherever_its_server_is_killed(crashing: Server) -> None:
    crashing.start(SERVE)
    async with (
        receiving() as receiver,
        new_admin(crashing) as admin,
        new_user(crashing, tenant_id=admin.principal.tenant_id, limit=1_000) as member,
    ):
        rule = await admin.post(RULES, {"percents": [50, 80], "kind": "user", "unit": "tokens"})
        hook = await admin.post("/admin/webhooks", {"url": receiver.url, "events": ["quota.alert"]})
        assert (rule.status, hook.status) == (201, 201), hook.body
        crashing.stop()

        crashing.start(("journeys.support.failpoints", BEFORE_ALERT_COMMIT, "1"))
        with suppress(aiohttp.ClientError):
            assert await spend(crashing, member, 560) == 200
        assert crashing.program.wait_for_end() == SIGKILLED
        crashing.start(("journeys.support.failpoints", AFTER_ALERT_COMMIT, "1"))
        assert crashing.program.wait_for_end() == SIGKILLED
        assert receiver.messages == []
        crashing.start(("journeys.support.failpoints", AFTER_SETTLE_COMMIT, "1"))
        with pytest.raises(aiohttp.ClientError):
            await spend(crashing, member, 250)
        assert crashing.program.wait_for_end() == SIGKILLED

        crashing.start(SERVE)
        async with http_client(crashing) as http:
            reader = replace(admin, http=http)

            async def are_delivered() -> bool:
                path = f"/admin/webhooks/{hook.body['id']}/deliveries"
                data = (await reader.get(path)).body["data"]
                return [one["status"] for one in data] == ["delivered"] * 2

            await until(are_delivered)
            assert await shares(reader) == [(50, "tokens"), (80, "tokens")]
        database = Database(crashing.database_url)
        try:
            assert await QuotaAlerts(database, SystemClock(), interval_s=15).run_once() == 0
        finally:
            await database.close()
        events = {(message.document["data"]["percent"], message.id) for message in receiver.messages}
        assert sorted(percent for percent, _ in events) == [50, 80]
        assert "open holds: 0\n" in crashing.command("ledger", "verify")
    crashing.stop()
