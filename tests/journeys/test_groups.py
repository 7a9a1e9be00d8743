"""Groups of users: whose calls count for one, on which quota, and who may change them."""

from dataclasses import replace
from typing import Any

import pytest

from journeys.support.admins import Admin, new_admin
from journeys.support.endpoints import ALL_ENDPOINTS, call
from journeys.support.jobs import ended, submit
from journeys.support.server import Server
from journeys.support.users import ApiUser, Reply, new_user
from journeys.upstream.handle import scripted
from tollkeeper.principal import Role


async def new_group(admin: Admin, name: str, *members: ApiUser, default: bool = False) -> int:
    made = await admin.post("/admin/groups", {"name": name})
    assert made.status == 201, made.body
    for member in members:
        path = f"/admin/groups/{made.body['id']}/members/{member.principal.user_id}"
        put = await admin.send("PUT", path, {"default": default})
        assert (put.status, put.body) == (200, {"user_id": member.principal.user_id, "default": default})
    return int(made.body["id"])


def limit_of(group_id: int, **fields: Any) -> dict[str, Any]:
    return {"group_id": group_id, "unit": "requests", "window": "total", "reason": "a project"} | fields


async def ask(user: ApiUser, group: str | None = None) -> Reply:
    headers = {"X-Tollkeeper-Group": group} if group is not None else {}
    return await user.query_with(headers, scripted(user.marker))


async def test_a_call_counts_for_the_group_that_it_names_and_else_for_the_default_one(server: Server) -> None:
    async with (
        new_admin(server) as admin,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=100_000) as ada,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=100_000) as bob,
    ):
        research = await new_group(admin, "research", ada, bob)
        made = await admin.post("/admin/quotas", limit_of(research, limit=2))
        assert (made.status, made.body["group_id"], made.body["user_id"]) == (200, research, None)
        assert made.body["quota"]["name"] == "group-total-requests"
        for user in (ada, bob):
            assert (await ask(user, "research")).status == 200
        refused = await ask(ada, "research")
        assert (refused.status, refused.code) == (429, "quota_exceeded")
        assert "2 of 2 in group-total-requests are used" in refused.body["detail"]
        assert (await ask(ada)).status == 200
        assert "group-total-requests" not in [quota["name"] for quota in (await ada.quota())["quotas"]]

        sales = await new_group(admin, "sales", ada, default=True)
        own = (await ada.get("/me")).body["groups"]
        assert own == [{"name": "research", "default": False}, {"name": "sales", "default": True}]
        assert [one["name"] for one in (await bob.get("/me")).body["groups"]] == ["research"]
        assert (await admin.post("/admin/quotas", limit_of(sales, limit=1))).status == 200
        assert [(await ask(user)).status for user in (ada, ada, bob)] == [200, 429, 200]
        shown = {quota["name"]: quota["used"] for quota in (await ada.quota())["quotas"]}
        assert shown["group-total-requests"] == 1
        (listed,) = (await admin.get(f"/admin/quotas?group_id={sales}")).body["data"]
        assert [quota["used"] for quota in listed["quotas"]] == [1]


@pytest.mark.prove_only_on_postgres
async def test_a_native_request_names_the_group_in_its_body_or_in_the_header(server: Server) -> None:
    """The other tests of this module use the ledger's groups on both databases."""
    native = [endpoint for endpoint in ALL_ENDPOINTS if endpoint.path.startswith("/ai/")]
    async with (
        new_admin(server) as admin,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=1_000_000) as ada,
    ):
        research = await new_group(admin, "research", ada)
        prompt = scripted(ada.marker)
        for endpoint in native:
            in_research = replace(endpoint, extra={**endpoint.extra, "group": "research"})
            assert (await call(ada, in_research, prompt, "gpt-4o-mini")).status == 200, endpoint
        submitted = await submit(ada, prompt, group="research")
        assert (await ended(ada, submitted.body["job_id"]))["status"] == "completed"
        both = await ada.query_with({"X-Tollkeeper-Group": "research"}, prompt, group="research")
        assert both.status == 200
        charges = await ada.charges()
        assert len(charges) == len(native) + 2
        assert {charge["group_id"] for charge in charges} == {research}

        for path in ("/ai/query", "/ai/estimate"):
            headers = {**ada.auth_headers, "X-Tollkeeper-Group": "research"}
            async with ada.http.post(path, json={"prompt": "Hello", "group": "sales"}, headers=headers) as differs:
                assert (differs.status, (await differs.json())["code"]) == (400, "unsupported_parameter")
        assert (await submit(ada, prompt, group="sales")).code == "not_in_group"
        assert (await ada.query(prompt, group="two words")).code == "invalid_request"


async def test_a_membership_that_has_ended_refuses_the_next_call(server: Server) -> None:
    async with (
        new_admin(server) as admin,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=100_000) as ada,
    ):
        group = await new_group(admin, "research", ada)
        assert (await ask(ada, "research")).status == 200
        member = f"/admin/groups/{group}/members/{ada.principal.user_id}"
        assert [(await admin.send("DELETE", member)).status for _ in range(2)] == [204, 404]
        for name in ("research", "nothing-of-this-name"):
            refused = await ask(ada, name)
            assert (refused.status, refused.code) == (403, "not_in_group")
            assert refused.body["detail"] == f"You are not a member of a group {name}. Name one of yours, or none."
        for wrong in ("two words", "x" * 65, "-"):
            refused = await ask(ada, wrong)
            assert (refused.status, refused.code) == (422, "invalid_request"), wrong


async def test_an_idempotency_key_is_of_a_group(server: Server) -> None:
    async with (
        new_admin(server) as admin,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=100_000) as ada,
    ):
        await new_group(admin, "research", ada)
        headers = {"Idempotency-Key": "once"}
        first = await ada.query_with(headers | {"X-Tollkeeper-Group": "research"}, scripted(ada.marker))
        again = await ada.query_with(headers | {"X-Tollkeeper-Group": "research"}, scripted(ada.marker))
        assert (first.status, again.headers["Idempotent-Replayed"]) == (200, "true")
        other = await ada.query_with(headers, scripted(ada.marker))
        assert (other.status, other.code) == (422, "idempotency_key_reused")


async def test_administrators_manage_the_groups_of_their_tenant_alone(server: Server) -> None:
    async with (
        new_admin(server) as admin,
        new_admin(server) as stranger,
        new_admin(server, Role.OPERATOR, tenant_id=admin.principal.tenant_id) as operator,
        new_user(server, tenant_id=stranger.principal.tenant_id, limit=None) as outsider,
    ):
        group = await new_group(admin, "research")
        taken = await admin.post("/admin/groups", {"name": "research"})
        assert (taken.status, taken.code) == (422, "invalid_request")
        await new_group(stranger, "research")
        own = f"/admin/groups/{group}/members"
        assert (await admin.send("PUT", f"{own}/{outsider.principal.user_id}", {})).code == "not_found"
        assert (await admin.send("PUT", f"{own}/{operator.principal.user_id}", {})).code == "forbidden"
        assert (await stranger.send("PUT", f"{own}/{outsider.principal.user_id}", {})).code == "not_found"
        assert (await stranger.post("/admin/quotas", limit_of(group, limit=1))).code == "not_found"
        assert (await admin.send("DELETE", f"/admin/groups/{group}")).status == 204
        assert (await admin.get(own)).code == "not_found"
        assert (await admin.get("/admin/groups")).body["data"] == []
        lines = (await admin.get("/admin/audit?limit=100")).body["data"]
        done = [line["action"] for line in lines if line["action"].startswith("group.")]
        assert done == ["group.close", "group.create"]
