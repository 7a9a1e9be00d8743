"""Tenants over the admin API: operators manage all of them, a tenant's administrator only the settings of their own."""

import secrets

from journeys.support.admins import new_admin
from journeys.support.server import Server
from journeys.support.users import new_user
from tollkeeper.principal import Role


def new_name() -> str:
    return f"tenant-{secrets.token_hex(8)}"


async def test_an_operator_creates_changes_and_disables_a_tenant(server: Server) -> None:
    async with new_admin(server, Role.OPERATOR) as operator:
        name = new_name()
        made = await operator.post("/admin/tenants", {"name": name})
        assert made.status == 201
        assert (made.body["name"], made.body["disabled"], made.body["default_limit"]) == (name, False, None)
        path = f"/admin/tenants/{made.body['id']}"
        found = await operator.get(path)
        assert found.body == made.body
        changed = await operator.patch(
            path, {"default_limit": 500, "default_period": "day"}, If_Match=found.headers["ETag"]
        )
        assert (changed.status, changed.body["default_limit"], changed.body["name"]) == (200, 500, name)
        stale = await operator.patch(path, {"disabled": True}, If_Match=found.headers["ETag"])
        assert (stale.status, stale.code) == (412, "precondition_failed")
        async with new_user(server, tenant_id=made.body["id"]) as member:
            assert (await operator.patch(path, {"disabled": True})).status == 200
            assert (await member.get("/me")).status == 401


async def test_a_calendar_moves_the_windows_of_a_tenant_and_is_for_operators(server: Server) -> None:
    async with new_admin(server, Role.OPERATOR) as operator:
        fields = {"time_zone": "Asia/Kathmandu", "reset_day": 31}
        made = await operator.post("/admin/tenants", {"name": new_name()} | fields)
        assert {name: made.body[name] for name in fields} == fields
        path = f"/admin/tenants/{made.body['id']}"
        for wrong in ({"time_zone": "Europe/Atlantis"}, {"time_zone": ""}, {"reset_day": 0}, {"reset_day": 32}):
            assert (await operator.patch(path, wrong)).status == 422, wrong
            assert (await operator.post("/admin/tenants", {"name": new_name()} | wrong)).status == 422, wrong
        async with new_admin(server, tenant_id=made.body["id"]) as admin:
            assert (await admin.patch(path, {"time_zone": "UTC"})).status == 403
            quota = {"user_id": admin.principal.user_id, "window": "week", "limit": 500, "reason": "a test"}
            week = (await admin.post("/admin/quotas", quota)).body["quota"]
            assert (week["name"], week["resets_at"][11:]) == ("user-week", "18:15:00Z")
            changed = await operator.patch(path, {"time_zone": "UTC"})
            assert (changed.body["time_zone"], changed.body["reset_day"]) == ("UTC", 31)
            assert (await admin.get("/me/quota")).body["quotas"] == [week]


async def test_a_repeated_creation_creates_one_tenant(server: Server) -> None:
    async with new_admin(server, Role.OPERATOR) as operator:
        name = new_name()
        first = await operator.post("/admin/tenants", {"name": name}, Idempotency_Key="once")
        again = await operator.post("/admin/tenants", {"name": name}, Idempotency_Key="once")
        assert (first.status, again.status, again.body) == (201, 201, first.body)
        other = await operator.post("/admin/tenants", {"name": new_name()}, Idempotency_Key="once")
        assert (other.status, other.code) == (422, "idempotency_key_reused")


async def test_a_tenant_is_created_with_a_default_quota_of_its_users(server: Server) -> None:
    async with new_admin(server, Role.OPERATOR) as operator:
        for fields, status in (
            ({"default_limit": 700, "default_period": "day"}, 201),
            ({"default_limit": 700}, 422),
            ({"default_period": "day"}, 422),
            ({"default_limit": -1, "default_period": "day"}, 422),
        ):
            made = await operator.post("/admin/tenants", {"name": new_name()} | fields)
            assert made.status == status, fields
            if status == 201:
                assert (made.body["default_limit"], made.body["default_period"]) == (700, "day")


async def test_pages_of_tenants_have_each_tenant_once(server: Server) -> None:
    async with new_admin(server, Role.OPERATOR) as operator:
        for _ in range(3):
            await operator.post("/admin/tenants", {"name": new_name()})
        found: list[int] = []
        query = "limit=2"
        while query:
            page = (await operator.get(f"/admin/tenants?{query}")).body
            found += [tenant["id"] for tenant in page["data"]]
            query = f"limit=2&cursor={page['next_cursor']}" if page["next_cursor"] is not None else ""
        assert len(found) >= 3
        assert found == sorted(set(found))


async def test_a_tenants_administrator_sees_and_changes_only_their_own_tenant(server: Server) -> None:
    async with new_admin(server) as ours, new_admin(server) as others:
        assert [tenant["id"] for tenant in (await ours.get("/admin/tenants")).body["data"]] == [
            ours.principal.tenant_id
        ]
        own = f"/admin/tenants/{ours.principal.tenant_id}"
        assert (await ours.patch(own, {"default_limit": 7, "default_period": "day"})).status == 200
        assert (await ours.patch(own, {"name": new_name()})).code == "forbidden"
        assert (await ours.post("/admin/tenants", {"name": new_name()})).code == "forbidden"
        for method, document in (("GET", None), ("PATCH", {"default_limit": 1})):
            other = await ours.send(method, f"/admin/tenants/{others.principal.tenant_id}", document)
            absent = await ours.send(method, "/admin/tenants/2000000000", document)
            assert (other.status, other.code) == (absent.status, absent.code) == (404, "not_found")
            assert other.body["detail"] == absent.body["detail"]


async def test_members_and_api_keys_cannot_administer(server: Server) -> None:
    async with new_user(server) as member, new_admin(server, Role.OPERATOR) as operator:
        assert (await member.get("/admin/tenants")).code == "forbidden"
        made = await operator.post("/auth/keys", {"name": "robot"})
        assert (
            await operator.send("GET", "/admin/tenants", headers={"x-api-key": made.body["key"], "Authorization": ""})
        ).code == "forbidden"


async def test_the_audit_log_has_each_act_once(server: Server) -> None:
    async with new_admin(server, Role.OPERATOR) as operator, new_admin(server) as admin:
        path = f"/admin/tenants/{admin.principal.tenant_id}"
        await operator.patch(path, {"disabled": True})
        await operator.patch(path, {"disabled": True})
        await operator.patch(path, {"disabled": False})
        (enabled, disabled, login) = (await admin.get("/admin/audit")).body["data"]
        assert (disabled["actor"], disabled["action"]) == (f"user:{operator.principal.user_id}", "tenant.change")
        assert (disabled["before"], disabled["after"]) == ({"disabled": False}, {"disabled": True})
        assert (login["action"], login["target"]) == ("login", f"user:{admin.principal.user_id}")
        assert (enabled["sequence"], disabled["sequence"]) == (3, 2)
        assert disabled["address"] == "127.0.0.1"
        (last,) = (await admin.get("/admin/audit?limit=1")).body["data"]
        assert last == enabled
