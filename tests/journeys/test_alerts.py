"""Alerts on quotas: once for each window and share, also while several processes look."""

import asyncio
from typing import Any

from journeys.support.admins import Admin, new_admin
from journeys.support.live_changes import until
from journeys.support.server import Server
from journeys.support.users import new_user
from journeys.upstream.handle import scripted
from tollkeeper.alerts.task import QuotaAlerts
from tollkeeper.clock import SystemClock
from tollkeeper.database.engine import Database
from tollkeeper.principal import Role

PATH, RULES = "/admin/alerts", "/admin/alerts/rules"


async def shares(admin: Admin) -> list[tuple[int, str]]:
    data: list[dict[str, Any]] = (await admin.get(PATH)).body["data"]
    return sorted((alert["percent"], alert["unit"]) for alert in data)


async def test_an_alert_fires_once_for_each_window_and_share_whatever_races(server: Server) -> None:
    async with (
        new_admin(server) as admin,
        new_admin(server) as stranger,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=1_000) as member,
    ):
        rule = await admin.post(RULES, {"percents": [100, 80, 95, 80], "kind": "user", "unit": "tokens"})
        assert (rule.status, rule.body["percents"]) == (201, [80, 95, 100])
        assert (await admin.post(RULES, {"percents": [50], "kind": "tenant"})).status == 201
        hook = {"url": "http://127.0.0.1:1/alerts", "events": ["quota.alert"]}
        made = await admin.post("/admin/webhooks", hook)
        assert made.status == 201, made.body
        usage = {"prompt_tokens": 900, "completion_tokens": 60}
        assert (await member.query(scripted(member.marker, usage=usage))).status == 200
        databases = [Database(server.database_url) for _ in range(4)]
        try:
            processes = [QuotaAlerts(database, SystemClock(), interval_s=15) for database in databases]
            await asyncio.gather(*(process.run_once() for process in processes))
            assert sum([await process.run_once() for process in processes]) == 0
        finally:
            for database in databases:
                await database.close()

        async def have_fired() -> bool:
            return await shares(admin) == [(80, "tokens"), (95, "tokens")]

        await until(have_fired)
        (first, second) = (await admin.get(PATH)).body["data"]
        assert (first["used"], first["limit"], first["user_id"]) == (960, 1_000, member.principal.user_id)
        assert first["id"] != second["id"]
        deliveries = (await admin.get(f"/admin/webhooks/{made.body['id']}/deliveries")).body["data"]
        assert [one["event_type"] for one in deliveries] == ["quota.alert"] * 2
        page = (await admin.get(f"{PATH}?limit=1")).body
        assert (await admin.get(f"{PATH}?limit=1&cursor={page['next_cursor']}")).body["data"] == [second]
        assert (await stranger.get(PATH)).body["data"] == []
        assert (await stranger.send("DELETE", f"{RULES}/{rule.body['id']}")).status == 404
        assert (await admin.send("DELETE", f"{RULES}/{rule.body['id']}")).status == 204
        assert [one["percents"] for one in (await admin.get(RULES)).body["data"]] == [[50]]


async def test_rules_that_make_no_sense_are_refused(server: Server) -> None:
    async with new_admin(server) as admin, new_admin(server, Role.OPERATOR) as operator:
        mistakes: tuple[dict[str, Any], ...] = (
            {"percents": []},
            {"percents": [0]},
            {"percents": [1_001]},
            {"percents": [80], "unit": "concurrency"},
            {"percents": [80], "kind": "planet"},
            {"percents": [80], "unknown": 1},
        )
        for wrong in mistakes:
            assert (await admin.post(RULES, wrong)).status == 422, wrong
        of_other = {"percents": [80], "user_id": operator.principal.user_id}
        assert (await admin.post(RULES, of_other)).status == 404
        elsewhere = {"percents": [80], "tenant_id": operator.principal.tenant_id}
        assert (await admin.post(RULES, elsewhere)).status == 404
        for first in (1, 11):
            assert (await admin.post(RULES, {"percents": list(range(first, first + 10))})).status == 201
        more = await admin.post(RULES, {"percents": [20, 21]})
        assert (more.status, "20 different shares" in more.body["detail"]) == (422, True)
        assert (await admin.post(RULES, {"percents": [20], "kind": "user"})).status == 201
        assert (await admin.send("DELETE", f"{RULES}/%00")).status == 404
        for query in (f"{RULES}?cursor=%00", f"{PATH}?cursor=zz", "/admin/audit?action=%00"):
            assert (await admin.get(query)).status == 422, query
