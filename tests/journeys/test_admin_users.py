"""Users over the admin API: who may create, change and see whom; and what new users may spend."""

import secrets
from typing import Any

import pytest

from journeys.support.admins import Admin, new_admin
from journeys.support.server import Server
from journeys.support.users import PASSWORD, login, new_user
from tollkeeper.principal import Role


def new_email() -> str:
    return f"{secrets.token_hex(8)}@example.com"


async def create(admin: Admin, **fields: Any) -> dict[str, Any]:
    """POST /admin/users, which must succeed."""
    made = await admin.post("/admin/users", {"email": new_email()} | fields)
    assert made.status == 201, made
    found: dict[str, Any] = made.body
    return found


async def acts(admin: Admin) -> list[dict[str, Any]]:
    """The newest lines of the audit log that are no logins."""
    lines = (await admin.get("/admin/audit?limit=100")).body["data"]
    return [line for line in lines if not line["action"].startswith("login")]


async def test_a_new_user_logs_in_and_has_the_default_quota_of_the_tenant(server: Server) -> None:
    async with new_admin(server) as admin:
        tenant = f"/admin/tenants/{admin.principal.tenant_id}"
        await admin.patch(tenant, {"default_limit": 700, "default_period": "day"})
        document = {"email": f" {new_email().upper()}", "password": PASSWORD}
        made = await admin.post("/admin/users", document, Idempotency_Key="once")
        assert made.status == 201
        assert made.body["email"] == document["email"].strip().lower()
        assert (made.body["role"], made.body["kind"], made.body["disabled"]) == ("member", "person", False)
        assert made.body["tenant_id"] == admin.principal.tenant_id
        again = await admin.post("/admin/users", document, Idempotency_Key="once")
        assert (again.status, again.body) == (201, made.body)
        logged_in = await login(admin.http, document["email"], PASSWORD)
        member = {"Authorization": f"Bearer {logged_in.body['access_token']}"}
        (quota,) = (await admin.send("GET", "/me/quota", headers=member)).body["quotas"]
        assert (quota["limit"], quota["name"]) == (700, "user-day")
        taken = await admin.post("/admin/users", document)
        assert (taken.status, taken.code) == (422, "invalid_request")


async def test_without_a_default_a_new_user_can_spend_nothing_and_without_a_password_not_log_in(server: Server) -> None:
    async with new_admin(server) as admin:
        made = await create(admin)
        for password in ("", PASSWORD):
            assert (await login(admin.http, made["email"], password)).status in (401, 422)


async def test_users_are_listed_in_pages_and_by_each_filter(server: Server) -> None:
    async with new_admin(server) as admin, new_admin(server, Role.OPERATOR) as operator:
        ada, robot = await create(admin), await create(admin, email=None, kind="service", name="robot")
        await admin.patch(f"/admin/users/{ada['id']}", {"disabled": True})

        async def ids(of: Admin, query: str) -> list[int]:
            page = (await of.get(f"/admin/users?{query}")).body
            assert page["next_cursor"] is None
            return [user["id"] for user in page["data"]]

        of_tenant = f"tenant_id={admin.principal.tenant_id}"
        assert await ids(operator, of_tenant) == [admin.principal.user_id, ada["id"], robot["id"]]
        assert await ids(admin, "") == await ids(operator, of_tenant)
        assert await ids(operator, f"email={ada['email'].upper()}") == [ada["id"]]
        assert await ids(operator, f"{of_tenant}&role=tenant_admin") == [admin.principal.user_id]
        assert await ids(admin, "kind=service") == [robot["id"]]
        assert await ids(admin, "disabled=true") == [ada["id"]]
        assert await ids(admin, "disabled=false&kind=person") == [admin.principal.user_id]
        first = (await admin.get("/admin/users?limit=2")).body
        assert first["next_cursor"] == str(ada["id"])
        assert [user["id"] for user in (await admin.get(f"/admin/users?cursor={ada['id']}")).body["data"]] == [
            robot["id"]
        ]


async def test_another_tenants_user_is_not_found_like_one_that_does_not_exist(server: Server) -> None:
    async with new_admin(server) as admin, new_admin(server) as other:
        await create(other)
        for method, end, document in (
            ("GET", "", None),
            ("PATCH", "", {"disabled": True}),
            ("POST", "/reset", {}),
            ("POST", "/erase", {"reason": "mine"}),
        ):
            theirs = await admin.send(method, f"/admin/users/{other.principal.user_id}{end}", document)
            absent = await admin.send(method, f"/admin/users/2000000000{end}", document)
            assert (theirs.status, theirs.code, theirs.body["detail"]) == (404, "not_found", absent.body["detail"])
            assert absent.status == 404
        for tenant_id in (other.principal.tenant_id, 2_000_000_000):
            assert (await admin.get(f"/admin/users?tenant_id={tenant_id}")).code == "not_found"
            assert (await admin.post("/admin/users", {"email": new_email(), "tenant_id": tenant_id})).status == 404
            invitation = {"email": new_email(), "tenant_id": tenant_id}
            assert (await admin.post("/admin/invitations", invitation)).code == "not_found"
        assert (await admin.get(f"/admin/users?email={other.email}")).body["data"] == []


async def test_a_tenant_admin_neither_makes_nor_changes_operators(server: Server) -> None:
    async with (
        new_admin(server) as admin,
        new_admin(server, Role.OPERATOR, tenant_id=admin.principal.tenant_id) as operator,
    ):
        member = await create(admin)
        for path, document in (
            ("/admin/users", {"email": new_email(), "role": "operator"}),
            ("/admin/invitations", {"email": new_email(), "role": "operator"}),
            (f"/admin/users/{operator.principal.user_id}/reset", {}),
            (f"/admin/users/{operator.principal.user_id}/erase", {"reason": "power"}),
        ):
            assert (await admin.post(path, document)).code == "forbidden", path
        for user_id, change in (
            (member["id"], {"role": "operator"}),
            (operator.principal.user_id, {"role": "member"}),
            (operator.principal.user_id, {"disabled": True}),
            (operator.principal.user_id, {"email": new_email()}),
        ):
            assert (await admin.patch(f"/admin/users/{user_id}", change)).code == "forbidden", change
        moved = await admin.patch(f"/admin/users/{member['id']}", {"tenant_id": operator.principal.tenant_id})
        assert (moved.status, moved.code) == (422, "invalid_request")
        assert (await create(operator, role="operator"))["role"] == "operator"


@pytest.mark.parametrize("role", [Role.TENANT_ADMIN, Role.OPERATOR])
async def test_nobody_changes_their_own_role_or_disables_or_erases_themselves(server: Server, role: Role) -> None:
    async with new_admin(server, role) as admin:
        own = f"/admin/users/{admin.principal.user_id}"
        for change in ({"role": "member"}, {"disabled": True}):
            assert (await admin.patch(own, change)).code == "forbidden"
        assert (await admin.post(f"{own}/erase", {"reason": "tired"})).code == "forbidden"
        assert (await admin.patch(own, {"role": role.value, "disabled": False})).status == 200


async def test_a_member_administers_nobody(server: Server) -> None:
    async with new_user(server) as member:
        for path in ("/admin/users", f"/admin/users/{member.principal.user_id}", "/admin/invitations"):
            assert (await member.get(path)).code == "forbidden"


async def test_a_new_role_or_state_refuses_the_old_token_at_the_next_request(server: Server) -> None:
    async with new_admin(server) as admin, new_admin(server, tenant_id=admin.principal.tenant_id) as other:
        path = f"/admin/users/{other.principal.user_id}"
        assert (await other.get(path)).status == 200
        found = await admin.get(path)
        demoted = await admin.patch(path, {"role": "member"}, If_Match=found.headers["ETag"])
        assert (demoted.status, demoted.body["role"]) == (200, "member")
        assert (await other.get("/me")).status == 401
        stale = await admin.patch(path, {"role": "tenant_admin"}, If_Match=found.headers["ETag"])
        assert (stale.status, stale.code) == (412, "precondition_failed")
        assert (await login(other.http, other.email, PASSWORD)).status == 200
        address = new_email()
        assert (await admin.patch(path, {"email": address, "disabled": True})).body["email"] == address
        for email in (other.email, address):
            assert (await login(other.http, email, PASSWORD)).status == 401
        await admin.patch(path, {"disabled": False})
        assert (await login(other.http, address, PASSWORD)).status == 200
        lines = await acts(admin)
        assert [(line["action"], line["after"]) for line in lines] == [
            ("user.change", {"disabled": False}),
            ("user.change", {"disabled": True, "email": "changed"}),
            ("user.change", {"role": "member"}),
        ]
        assert {line["target"] for line in lines} == {f"user:{other.principal.user_id}"}


async def test_a_service_account_has_a_name_of_its_tenant_and_neither_password_nor_power(server: Server) -> None:
    async with new_admin(server) as admin, new_admin(server) as other:
        document = {"kind": "service", "name": "nightly-import"}
        made = await admin.post("/admin/users", document)
        assert made.status == 201
        assert made.body["email"] == f"nightly-import@{admin.principal.tenant_id}.service.invalid"
        assert (await admin.post("/admin/users", document)).status == 422
        assert (await other.post("/admin/users", document)).status == 201
        path = f"/admin/users/{made.body['id']}"
        for refused in (
            document | {"name": "another", "password": PASSWORD},
            document | {"name": "another", "role": "tenant_admin"},
            document | {"name": "an@other"},
            document | {"email": new_email()},
            {"kind": "service"},
            {"kind": "service", "email": new_email()},
            {"name": "a-person"},
            {"email": "robot@1.service.invalid"},
        ):
            answer = await admin.post("/admin/users", refused)
            assert (answer.status, answer.code) == (422, "invalid_request"), refused
        assert (await admin.patch(path, {"role": "tenant_admin"})).status == 422
        assert (await admin.patch(path, {"email": new_email()})).status == 422
        assert (await admin.post(f"{path}/reset", {})).status == 422
        assert (await login(admin.http, made.body["email"], PASSWORD)).status == 401
