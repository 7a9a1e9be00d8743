"""API keys of other users: their tenant's administrator and operators create, list, change and revoke them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from journeys.support.admins import Admin, new_admin
from journeys.support.server import Server
from journeys.support.users import PASSWORD, login, new_user
from tollkeeper.principal import Role

SECRET_FIELDS = {"key", "key_hash"}


async def audited(admin: Admin, key_id: str) -> list[tuple[str, str]]:
    """The actors and actions of a key's audit lines, the oldest first."""
    lines = (await admin.get("/admin/audit?limit=100")).body["data"]
    return [(line["actor"], line["action"]) for line in reversed(lines) if line["target"] == f"key:{key_id}"]


async def test_an_administrator_manages_the_keys_of_the_tenants_users(server: Server) -> None:
    async with new_admin(server) as admin, new_user(server, tenant_id=admin.principal.tenant_id) as member:
        user_id = member.principal.user_id
        document = {"user_id": user_id, "name": "robot", "scopes": ["me"], "networks": ["127.0.0.0/8"]}
        made = await admin.post("/admin/keys", document, Idempotency_Key="once")
        again = await admin.post("/admin/keys", document, Idempotency_Key="once")
        assert (made.status, made.body) == (201, again.body)
        headers = {"Authorization": f"Bearer {made.body['key']}"}
        used = await admin.send("GET", "/me", headers=headers)
        assert (used.status, used.body["email"]) == (200, member.email)

        (listed,) = (await admin.get(f"/admin/keys?user_id={user_id}")).body["data"]
        assert not listed.keys() & SECRET_FIELDS
        assert listed | {"last_used_at": None} == {name: made.body[name] for name in listed}
        assert (listed["user_id"], listed["tenant_id"]) == (user_id, admin.principal.tenant_id)

        path = f"/admin/keys/{listed['id']}"
        ends = (datetime.now(UTC) + timedelta(days=3)).replace(microsecond=0).isoformat().replace("+00:00", "Z")
        changed = await admin.patch(path, {"name": "new", "expires_at": ends, "models": ["m"], "networks": None})
        assert changed.status == 200
        assert [changed.body[name] for name in ("name", "expires_at", "models", "networks", "scopes")] == [
            "new",
            ends,
            ["m"],
            None,
            ["me"],
        ]
        assert (await admin.patch(path, {})).body == changed.body
        found = await admin.get(path)
        assert (found.status, found.body) == (200, changed.body)
        assert (await admin.send("GET", "/me", headers=headers)).status == 200
        assert (await admin.get(path)).headers["ETag"] == found.headers["ETag"] == changed.headers["ETag"]
        stale = await admin.patch(path, {"name": "old"}, If_Match='"0"')
        assert (stale.status, stale.code) == (412, "precondition_failed")
        assert (await admin.patch(path, {"name": "new"}, If_Match=found.headers["ETag"])).status == 200
        forever = await admin.patch(path, {"expires_at": None})
        assert (forever.body["expires_at"], forever.body["models"]) == (None, ["m"])
        own = (await member.get("/auth/keys")).body["data"]
        assert [key["name"] for key in own] == ["new"]

        assert (await admin.send("DELETE", path)).status == 204
        assert (await admin.send("GET", "/me", headers=headers)).status == 401
        assert (await admin.get(path)).code == "not_found"
        assert (await admin.send("DELETE", path)).code == (await admin.patch(path, {"name": "x"})).code == "not_found"
        actor = f"user:{admin.principal.user_id}"
        actions = ["key.create", "key.change", "key.change", "key.revoke"]
        assert await audited(admin, listed["id"]) == [(actor, action) for action in actions]


async def test_pages_of_keys_have_each_key_once_the_newest_first(server: Server) -> None:
    async with new_admin(server) as admin, new_user(server, tenant_id=admin.principal.tenant_id) as member:
        for number in range(5):
            await admin.post("/admin/keys", {"user_id": member.principal.user_id, "name": str(number)})
        found: list[str] = []
        query = "limit=2"
        while query:
            page = (await admin.get(f"/admin/keys?{query}")).body
            found += [key["name"] for key in page["data"]]
            query = f"limit=2&cursor={page['next_cursor']}" if page["next_cursor"] is not None else ""
        assert sorted(found) == list("01234")
        assert (await admin.get("/admin/keys?cursor=x")).code == "invalid_request"


async def test_an_administrator_reaches_neither_other_tenants_nor_users_of_a_higher_role(server: Server) -> None:
    async with (
        new_admin(server) as admin,
        new_admin(server, Role.OPERATOR) as operator,
        new_user(server) as stranger,
        new_admin(server, Role.OPERATOR, tenant_id=admin.principal.tenant_id) as superior,
    ):
        for user_id in (stranger.principal.user_id, 2_000_000_000):
            refused = await admin.post("/admin/keys", {"user_id": user_id, "name": "x"})
            assert refused.code == "not_found"
            assert (await admin.get(f"/admin/keys?user_id={user_id}")).body["data"] == []
        theirs = await superior.post("/auth/keys", {"name": "own"})
        path = f"/admin/keys/{theirs.body['id']}"
        document = {"user_id": superior.principal.user_id, "name": "x"}
        for reply in (
            await admin.post("/admin/keys", document),
            await admin.patch(path, {"networks": None}),
            await admin.send("DELETE", path),
        ):
            assert (reply.status, reply.code) == (403, "forbidden")
        assert (await admin.get(f"/admin/keys?tenant_id={stranger.principal.tenant_id}")).code == "not_found"
        made = await operator.post("/admin/keys", {"user_id": stranger.principal.user_id, "name": "x"})
        assert (made.status, made.body["tenant_id"]) == (201, stranger.principal.tenant_id)
        of_tenant = await operator.get(f"/admin/keys?tenant_id={stranger.principal.tenant_id}")
        assert [key["id"] for key in of_tenant.body["data"]] == [made.body["id"]]


async def test_ones_own_keys_have_audit_lines_too(server: Server) -> None:
    async with new_admin(server) as admin, new_user(server, tenant_id=admin.principal.tenant_id) as member:
        made = (await member.make_key(name="Ada Lovelace's", models=["m"])).body
        async with member.http.delete(f"/auth/keys/{made['id']}", headers=member.auth_headers) as response:
            assert response.status == 204
        actor = f"user:{member.principal.user_id}"
        assert await audited(admin, made["id"]) == [(actor, "key.create"), (actor, "key.revoke")]
        lines = (await admin.get("/admin/audit")).body["data"]
        assert made["key"] not in str(lines)
        assert "Lovelace" not in str(lines), "a name can be erased, a line of the log cannot"
        assert lines[1]["after"]["models"] == ["m"]


async def test_a_former_operator_gets_no_response_to_what_the_operator_did(server: Server) -> None:
    async with (
        new_admin(server, Role.OPERATOR) as former,
        new_admin(server, Role.OPERATOR) as operator,
        new_user(server) as member,
    ):
        document = {"user_id": member.principal.user_id, "name": "robot"}
        assert (await former.post("/admin/keys", document, Idempotency_Key="k")).status == 201
        path = f"/admin/users/{former.principal.user_id}"
        assert (await operator.patch(path, {"role": "tenant_admin"})).status == 200
        token = (await login(former.http, former.email, PASSWORD)).body["access_token"]
        demoted = replace(former, token=token)
        repeated = await demoted.post("/admin/keys", document, Idempotency_Key="k")
        assert (repeated.status, repeated.code) == (422, "idempotency_key_reused")
        assert (await demoted.post("/admin/keys", document)).status == 404
