"""Reports of usage: what users, administrators and operators see of what was spent, as JSON and CSV."""

import csv
import io
from datetime import UTC, datetime
from typing import Any

from journeys.support.admins import Admin, new_admin
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.test_groups import new_group
from journeys.upstream.handle import scripted
from tollkeeper.clock import SystemClock
from tollkeeper.database.engine import Database
from tollkeeper.principal import Role
from tollkeeper.usage.rollup import UsageRollup


async def add_up(server: Server) -> None:
    """What the server does at every sweep."""
    database = Database(server.database_url)
    try:
        await UsageRollup(database, SystemClock()).run()
    finally:
        await database.close()


async def report(reader: Admin | ApiUser, path: str) -> dict[str, Any]:
    reply = await reader.get(path)
    assert reply.status == 200, reply
    body: dict[str, Any] = reply.body
    return body


async def read_csv(reader: Admin | ApiUser, path: str) -> list[dict[str, str]]:
    async with reader.http.get(path, headers={"Authorization": f"Bearer {reader.token}"}) as response:
        assert (response.status, response.headers["Content-Type"]) == (200, "text/csv; charset=utf-8")
        assert response.headers["Content-Disposition"] == 'attachment; filename="usage.csv"'
        return list(csv.DictReader(io.StringIO(await response.text())))


async def test_reports_agree_with_the_charges_for_users_administrators_and_operators(server: Server) -> None:
    async with (
        new_admin(server) as admin,
        new_admin(server, Role.OPERATOR) as operator,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=100_000) as ada,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=100_000) as ben,
    ):
        heron = await new_group(admin, "heron", ben, default=True)
        keyed = await ada.with_api_key()
        usage = {"prompt_tokens": 30, "completion_tokens": 12}
        for caller in (ada, keyed, ben):
            assert (await caller.query(scripted(caller.marker, usage=usage))).status == 200
        [first, *_] = await ada.charges()
        refunded = await operator.post(f"/admin/charges/{first['id']}/refund", {"reason": "a test"})
        assert refunded.status == 200, refunded
        await add_up(server)

        cost = sum(charge["cost"] for charge in (*await ada.charges(), *await ben.charges()))
        of_tenant = f"tenant_id={admin.principal.tenant_id}"
        for group_by in ("hour", "day", "model", "provider", "user", "key", "surface", "group", "tag"):
            found = await report(admin, f"/admin/usage?group_by={group_by}")
            assert found["complete"]
            assert (found["total"]["calls"], found["total"]["cost"]) == (3, cost), found
            assert sum(line["cost"] for line in found["data"]) == cost
            assert found == await report(operator, f"/admin/usage?group_by={group_by}&{of_tenant}")
            mine = await report(keyed, f"/me/usage?group_by={group_by}") if group_by != "user" else None
            assert mine is None or (mine["total"]["calls"], mine["total"]["refunded"]) == (2, first["cost"])
            rows = await read_csv(admin, f"/admin/usage?group_by={group_by}&format=csv")
            assert [(row["value"], int(row["cost"])) for row in rows] == [
                (line["value"] or "", line["cost"]) for line in found["data"]
            ]

        users = (await report(admin, "/admin/usage?group_by=user"))["data"]
        assert {(line["label"], line["calls"]) for line in users} == {(ada.email, 2), (ben.email, 1)}
        keys = (await report(admin, "/admin/usage?group_by=key"))["data"]
        assert {(line["value"] is None, line["label"], line["calls"]) for line in keys} == {
            (True, None, 2),
            (False, "robot", 1),
        }
        groups = (await report(admin, "/admin/usage?group_by=group"))["data"]
        assert {(line["value"], line["label"], line["calls"]) for line in groups} == {
            (None, None, 2),
            (str(heron), "heron", 1),
        }
        charged = (await report(admin, "/admin/charges"))["data"]
        assert [(charge["group_id"], charge["key_id"] is None) for charge in charged] == [
            (heron, True),
            (None, False),
            (None, True),
        ]
        one = await report(admin, f"/admin/usage?group_by=model&user_id={ben.principal.user_id}")
        assert one["total"]["calls"] == 1
        tenants = (await report(operator, "/admin/usage?group_by=tenant&limit=10000"))["data"]
        assert [line["calls"] for line in tenants if line["value"] == str(admin.principal.tenant_id)] == [3]
        cut = await report(admin, "/admin/usage?group_by=user&limit=1")
        assert (len(cut["data"]), cut["truncated"], cut["total"]["calls"]) == (1, True, 3)

        for wrong in (
            "from=2026-11-02&to=2026-11-01",
            "from=2026-11-01T00:07:00Z",
            "from=2020-01-01&to=2026-11-01",
            "group_by=hour&from=2026-01-01&to=2026-11-01",
            "group_by=tenant",
            "group_by=colour",
        ):
            assert (await admin.get(f"/admin/usage?{wrong}")).status == 422, wrong
        assert (await ada.get("/me/usage?group_by=user")).status == 422
        none = await report(ada, "/me/usage?from=2020-01-01&to=2020-02-01")
        assert (none["data"], none["total"]["calls"], none["from"]) == ([], 0, "2020-01-01T00:00:00Z")


async def test_a_tenants_statement_agrees_with_its_report(server: Server) -> None:
    async with (
        new_admin(server) as admin,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=100_000) as ada,
    ):
        heron = await new_group(admin, "heron", ada)
        assert (await admin.post("/admin/tags", {"name": "run"})).status == 201
        tagged = {"X-Tollkeeper-Tags": "run=a"}
        assert (await ada.query_with(tagged, scripted(ada.marker), group="heron")).status == 200
        await add_up(server)
        month = datetime.now(UTC).strftime("%Y-%m")
        path = f"/admin/statements/{admin.principal.tenant_id}/{month}"
        statement = await report(admin, path)
        [line] = statement["spent"]
        assert (line["group_id"], line["group_name"]) == (heron, "heron")
        spent = await report(admin, f"/admin/usage?group_by=model&from={statement['from']}&to={statement['to']}")
        assert statement["total"] == spent["total"]
        assert statement["tags"] == [{"tag": "run", "tag_value": "a", **spent["total"]}]
        assert (line["model"], statement["closed_at"]) == (spent["data"][0]["value"], None)
        headers = {"Authorization": f"Bearer {admin.token}"}
        async with admin.http.get(f"{path}?format=csv", headers=headers) as response:
            rows = [(row["section"], row["group"]) for row in csv.DictReader(io.StringIO(await response.text()))]
        assert rows == [("spent", "heron"), ("total", ""), ("tag", "")]
        async with admin.http.get(f"{path}?format=html", headers=headers) as response:
            assert response.headers["Content-Security-Policy"] == "default-src 'none'"
            page = await response.text()
            assert (line["model"] in page, "Spent by tag" in page) == (True, True)
        for wrong in ("2020-01", "0000-01", "9999-12", "%D9%A2%D9%A0%D9%A2%D9%A6-11"):
            assert (await admin.get(path.replace(month, wrong))).status == 404, wrong
        assert (await ada.get(path)).status == 403
