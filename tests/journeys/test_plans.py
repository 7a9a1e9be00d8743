"""Plans: an operator puts a tenant on one, and its rates, quotas, models and retention apply."""

import secrets
from typing import Any

from journeys.support.admins import Admin, new_admin
from journeys.support.live_changes import until
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from tollkeeper.principal import Role

MODEL = "gpt-4o-mini"
TERMS: dict[str, Any] = {
    "calls_per_user": "40/hour",
    "calls_per_tenant": "3/hour",
    "models": [MODEL],
    "tenant_quotas": [{"window": "month", "limit": 900_000}],
    "user_quotas": [{"window": "day", "limit": 40_000}, {"unit": "requests", "window": "hour", "limit": 50}],
    "content_days": 3,
}


async def create(operator: Admin, **changes: Any) -> dict[str, Any]:
    made = await operator.post("/admin/plans", TERMS | {"name": f"plan-{secrets.token_hex(4)}"} | changes)
    assert made.status == 201, made.body
    body: dict[str, Any] = made.body
    return body


async def test_rates_models_and_quotas_of_a_plan_apply_to_the_users_of_its_tenant_only(server: Server) -> None:
    async with new_admin(server, Role.OPERATOR) as operator, new_admin(server) as admin, new_user(server) as stranger:
        tenant_id = admin.principal.tenant_id
        plan = await create(operator)
        path, sent = f"/admin/tenants/{tenant_id}/plan", {"plan_id": plan["id"], "reason": "Upgrade"}
        assert (await admin.post(path, sent)).status == 403
        assigned = [await operator.post(path, sent, Idempotency_Key="once") for _ in range(2)]
        assert [(reply.status, reply.body["plan_id"]) for reply in assigned] == [(200, plan["id"])] * 2
        assert (await operator.send("DELETE", f"/admin/plans/{plan['id']}")).status == 422
        (shared,) = (await operator.get(f"/admin/quotas?tenant_id={tenant_id}")).body["data"][0]["quotas"]
        assert (shared["window"], shared["limit"]) == ("month", 900_000)
        async with (
            new_user(server, tenant_id=tenant_id) as first,
            new_user(server, tenant_id=tenant_id) as second,
        ):

            async def is_in_force() -> bool:
                return [one["id"] for one in (await first.get("/ai/models")).body["data"]] == [MODEL]

            await until(is_in_force)
            other_model = await first.query("hi", model="gpt-4o")
            assert (other_model.status, other_model.code) == (403, "forbidden")
            assert "plan" in other_model.body["detail"]
            assert [await status_of(first) for _ in range(3)] == [200, 200, 429]
            refused = await second.query("hi")
            assert "at most 3 per 1 hour (the plan of your tenant for all users together)" in refused.body["detail"]
            assert refused.headers["RateLimit-Policy"] == '"tenant-calls-3600s";q=3;w=3600'
            assert await status_of(stranger) == 200
            freed = await operator.patch(f"/admin/plans/{plan['id']}", {"calls_per_tenant": None})
            assert (freed.status, freed.body["calls_per_user"]) == (200, "40/hour")

            async def is_free() -> bool:
                return await status_of(second) == 200

            await until(is_free)
        created = await admin.post("/admin/users", {"email": f"{secrets.token_hex(6)}@example.com"})
        assert created.status == 201, created.body
        quotas = (await admin.get(f"/admin/quotas?user_id={created.body['id']}")).body["data"][0]["quotas"]
        assert {(one["unit"], one["window"], one["limit"]) for one in quotas} == {
            ("tokens", "day", 40_000),
            ("requests", "hour", 50),
        }
        assert (await operator.post(path, {"plan_id": None, "reason": "End"})).body["plan_id"] is None
        assert (await operator.send("DELETE", f"/admin/plans/{plan['id']}")).status == 204
        acts = (await operator.get(f"/admin/audit?tenant_id={tenant_id}&action=tenant.plan")).body["data"]
        assert [act["after"]["plan_id"] for act in acts] == [None, plan["id"]]


async def status_of(caller: ApiUser) -> int:
    return (await caller.query("hi", model=MODEL)).status


async def test_terms_that_make_no_sense_are_refused_and_a_plan_changes_as_a_whole_or_not(server: Server) -> None:
    async with new_admin(server, Role.OPERATOR) as operator:
        plan = await create(operator)
        path = f"/admin/plans/{plan['id']}"
        mistakes: tuple[dict[str, Any], ...] = (
            {"calls_per_user": "often"},
            {"calls_per_user": "0/minute"},
            {"requests_per_tenant": "5/900 year"},
            {"calls_per_tenant": ";".join(["1/second"] * 5)},
            {"models": []},
            {"user_quotas": [{"window": "day", "limit": -1}]},
            {"user_quotas": [{"unit": "concurrency", "window": "day", "limit": 1}]},
            {"tenant_quotas": [{"window": "day", "limit": 1}] * 2},
            {"content_days": 0},
            {"unknown": 1},
            {"name": ""},
        )
        for wrong in mistakes:
            assert (await operator.patch(path, {"content_days": 9} | wrong)).status == 422, wrong
        assert (await operator.post("/admin/plans", {"name": plan["name"]})).status == 422
        same = await operator.get(path)
        assert same.body == plan
        assert (await operator.patch(path, {"content_days": 9}, If_Match='"0"')).status == 412
        changed = await operator.patch(path, {"content_days": 9, "models": None}, If_Match=same.headers["ETag"])
        assert changed.body == plan | {"content_days": 9, "models": None}
        listed = (await operator.get(f"/admin/plans?cursor={plan['id'] - 1}&limit=1")).body["data"]
        assert listed == [changed.body]
        assert (await operator.get("/admin/plans/2000000000")).status == 404
