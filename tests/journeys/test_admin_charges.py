"""Charges over the admin API: pages, explanations, refunds."""

from typing import Any

from journeys.support.admins import new_admin
from journeys.support.server import Server
from journeys.support.users import new_user
from journeys.test_admin_quotas import acts, assert_is_absent
from tollkeeper.principal import Role


async def test_charges_are_listed_in_pages_and_explained_within_the_tenant(server: Server) -> None:
    async with (
        new_admin(server) as admin,
        new_admin(server) as others,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=10_000) as ada,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=10_000) as bob,
    ):
        made = [(await user.query("Hello")).body["query_id"] for user in (ada, bob, ada)]
        found: list[dict[str, Any]] = []
        query = "limit=2"
        while query:
            page = (await admin.get(f"/admin/charges?{query}")).body
            found += page["data"]
            query = f"limit=2&cursor={page['next_cursor']}" if page["next_cursor"] else ""
        assert [one["id"] for one in found] == made[::-1]
        assert {one["tenant_id"] for one in found} == {admin.principal.tenant_id}
        of_bob = (await admin.get(f"/admin/charges?user_id={bob.principal.user_id}")).body["data"]
        assert [(one["id"], one["user_id"]) for one in of_bob] == [(made[1], bob.principal.user_id)]
        explained = (await admin.get(f"/admin/charges/{made[0]}")).body
        assert explained["reason"] == "Charged as the provider reported."
        assert [(entry["quota"], entry["kind"]) for entry in explained["entries"]] == [
            ("user-total", "reserve"),
            ("user-total", "settle"),
        ]
        for path in ("?user_id={}", "?tenant_id={}"):
            whose = ada.principal.user_id if "user" in path else admin.principal.tenant_id
            absent = await others.get(f"/admin/charges{path.format(2_000_000_000)}")
            assert_is_absent(await others.get(f"/admin/charges{path.format(whose)}"), absent)
        absent = await others.get(f"/admin/charges/chg_{'0' * 32}")
        assert_is_absent(await others.get(f"/admin/charges/{made[0]}"), absent)
        assert (await others.get("/admin/charges")).body["data"] == []
        wrong = await admin.get(f"/admin/charges?cursor=chg_{'f' * 32}")
        assert (wrong.status, wrong.code) == (422, "invalid_request")


async def test_a_charge_is_refunded_once_by_an_operator(server: Server) -> None:
    async with (
        new_admin(server) as admin,
        new_admin(server, Role.OPERATOR) as operator,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=10_000) as member,
    ):
        made = (await member.query("Hello")).body["query_id"]
        path, sent = f"/admin/charges/{made}/refund", {"reason": "the answer was wrong"}
        assert (await admin.post(path, sent)).code == "forbidden"
        assert (await operator.post(f"/admin/charges/chg_{'0' * 32}/refund", sent)).code == "not_found"
        refunded = await operator.post(path, sent, Idempotency_Key="r")
        assert (refunded.status, refunded.body["refunded"]) == (200, True), refunded.body
        entry = refunded.body["entries"][-1]
        assert (entry["kind"], entry["settled"]) == ("refund", -refunded.body["cost"])
        assert (entry["actor"], entry["reason"]) == (f"user:{operator.principal.user_id}", sent["reason"])
        again = await operator.post(path, sent, Idempotency_Key="r")
        assert again.body == refunded.body
        conflict = await operator.post(path, sent)
        assert (conflict.status, conflict.code) == (409, "ledger_conflict")
        assert (await member.quota())["used"] == 0
        lines = await acts(admin)
        assert [(line["action"], line["target"], line["actor"]) for line in lines] == [
            ("charge.refund", f"charge:{made}", f"user:{operator.principal.user_id}")
        ]
