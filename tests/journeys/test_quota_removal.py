"""Quotas and templates that are removed over the admin API: what that ends, what it leaves, and who may."""

from typing import Any
from urllib.parse import urlencode

from journeys.support.admins import Admin, new_admin
from journeys.support.server import Server
from journeys.support.users import Reply, new_user
from journeys.test_admin_quotas import acts, assert_is_absent, of_user
from journeys.upstream.handle import scripted
from tollkeeper.principal import Role


def path_of(**query: Any) -> str:
    return f"/admin/quotas?{urlencode({'reason': 'a test'} | query)}"


async def remove(admin: Admin, **query: Any) -> Reply:
    return await admin.send("DELETE", path_of(**query))


async def test_a_removed_quota_limits_no_more_and_its_history_stays(server: Server) -> None:
    async with (
        new_admin(server) as admin,
        new_admin(server) as stranger,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=None) as member,
    ):
        mine = {"user_id": member.principal.user_id}
        await admin.post("/admin/quotas", of_user(member, window="day", limit=1_000_000))
        await admin.post("/admin/quotas", of_user(member, window="total", unit="requests", limit=1))
        assert (await member.query(scripted(member.marker))).status == 200
        assert (await member.query(scripted(member.marker))).status == 429
        for one in (mine, {"tenant_id": admin.principal.tenant_id}):
            absent = dict.fromkeys(one, 2_000_000_000)
            assert_is_absent(await remove(stranger, **one), await remove(stranger, **absent))
        async with member.http.delete(path_of(**mine), headers=member.auth_headers) as response:
            assert response.status == 403
        assert (await remove(admin, **mine, tenant_id=admin.principal.tenant_id)).status == 422
        assert (await admin.send("DELETE", f"/admin/quotas?user_id={member.principal.user_id}")).status == 422
        assert (await remove(admin, **mine, unit="requests")).status == 204
        again = await remove(admin, **mine, unit="requests", window="total")
        assert (again.status, "no request quota of its own for the total window" in again.body["detail"]) == (404, True)
        assert (await member.query(scripted(member.marker))).status == 200
        assert [one["name"] for one in (await member.quota())["quotas"]][:1] == ["user-day"]
        assert (await remove(admin, **mine)).status == 204
        refused = await member.query(scripted(member.marker))
        assert (refused.status, refused.code) == (429, "quota_exceeded")
        assert [one["name"] for one in (await member.quota())["quotas"] if one["name"].startswith("user")] == []
        assert len((await member.get("/me/charges")).body["data"]) == 2
        made = await admin.post("/admin/quotas", of_user(member, window="day", limit=1_000_000))
        assert (made.body["quota"]["limit"], made.body["quota"]["used"]) == (1_000_000, 0)
        assert (await member.query(scripted(member.marker))).status == 200
        lines = [act for act in await acts(admin) if act["action"] == "quota.remove"]
        assert [(line["before"], line["after"]["unit"]) for line in lines] == [
            ({"limit": 1_000_000}, "tokens"),
            ({"limit": 1}, "requests"),
        ]
        assert {(line["target"], line["reason"]) for line in lines} == {(f"user:{member.principal.user_id}", "a test")}


async def test_a_removed_template_leaves_quotas_of_ones_own(server: Server) -> None:
    async with (
        new_admin(server) as admin,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=None) as member,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=None) as other,
    ):
        each = {"for_each": "user", "window": "day", "limit": 500_000, "reason": "a default"}
        assert (await admin.post("/admin/quotas", each)).status == 200
        assert (await admin.post("/admin/quotas", of_user(other, window="day", limit=400_000))).status == 200
        assert (await member.query(scripted(member.marker))).status == 200
        own = await remove(admin, user_id=member.principal.user_id, window="day")
        assert (own.status, "has no token quota of its own" in own.body["detail"]) == (404, True)
        assert (await remove(admin, for_each="user")).status == 204
        assert (await member.query(scripted(member.marker))).status == 429
        assert (await other.query(scripted(other.marker))).status == 200
        assert (await admin.get("/admin/quotas?for_each=user")).body["data"][0]["quotas"] == []
        assert (await acts(admin))[0]["target"] == f"each_user:{admin.principal.tenant_id}"


async def test_only_operators_remove_the_quota_of_a_tenant(server: Server) -> None:
    async with new_admin(server) as admin, new_admin(server, Role.OPERATOR) as operator:
        quota = {"tenant_id": admin.principal.tenant_id, "window": "week"}
        assert (await operator.post("/admin/quotas", quota | {"limit": 1_000, "reason": "a test"})).status == 200
        assert (await remove(admin, **quota)).status == 403
        assert (await remove(operator, **quota)).status == 204
        assert (await remove(operator, **quota)).status == 404


async def test_an_act_with_an_unknown_or_repeated_query_parameter_is_refused(server: Server) -> None:
    """Without it, the act would be another one: a misspelt unit would remove the quota in tokens."""
    async with (
        new_admin(server, Role.OPERATOR) as operator,
        new_user(server) as member,
    ):
        mine = {"user_id": member.principal.user_id}
        misspelt = await remove(operator, **mine, units="requests")
        assert (misspelt.status, misspelt.code) == (422, "invalid_request")
        assert "Unknown query parameter. Known parameters: reason, user_id, tenant_id," in misspelt.body["detail"]
        twice = await operator.send("DELETE", f"{path_of(**mine)}&user_id={operator.principal.user_id}")
        assert (twice.status, "twice" in twice.body["detail"]) == (422, True)
        for path in (
            "/admin/moderation?tenant=1",
            "/admin/identity-provider?tenant=1",
            "/admin/webhooks/1?tenant_id=1",
        ):
            assert "Unknown query parameter." in (await operator.send("DELETE", path)).body["detail"], path
        assert (await operator.send("POST", "/admin/ledger/verify?wait=1")).status == 422
        assert (await operator.get("/admin/quotas?units=requests")).status == 200
        assert (await member.query(scripted(member.marker))).status == 200
