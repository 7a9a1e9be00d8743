"""One-time links: a new password, and an invitation, each used once by whoever has the link."""

import re
import secrets
from typing import Any

import aiohttp

from journeys.support.admins import new_admin
from journeys.support.server import Server
from journeys.support.users import PASSWORD, Reply, http_client, login
from journeys.test_admin_users import acts, create, new_email
from tollkeeper.principal import Role

NEW_PASSWORD = "another long passphrase"
SENTENCE = "This link is unknown, or was used before, or has ended. Ask an administrator for a new one."


async def use(http: aiohttp.ClientSession, path: str, token: str, password: str = NEW_PASSWORD) -> Reply:
    async with http.post(path, json={"token": token, "password": password}) as response:
        return Reply(response.status, await response.json(content_type=None), response.headers)


def assert_refused(reply: Reply) -> None:
    assert (reply.status, reply.code, reply.body["detail"]) == (400, "invalid_link", SENTENCE)


async def test_a_reset_link_sets_a_password_once_and_ends_the_logins(server: Server) -> None:
    async with new_admin(server) as admin, new_admin(server, tenant_id=admin.principal.tenant_id) as user:
        made = await admin.post(f"/admin/users/{user.principal.user_id}/reset", {})
        assert made.status == 201
        token = made.body["token"]
        assert made.body["url"] == f"{server.url}/auth/reset#token={token}"
        async with admin.http.get("/auth/reset") as page:
            assert page.status == 200
        assert (await use(admin.http, "/auth/reset", token, "too short")).status == 422
        done = await use(admin.http, "/auth/reset", token)
        assert (done.status, done.body["email"], done.body["user_id"]) == (200, user.email, user.principal.user_id)
        assert (await user.get("/me")).status == 401
        assert (await login(user.http, user.email, PASSWORD)).status == 401
        assert (await login(user.http, user.email, NEW_PASSWORD)).status == 200
        for used_or_unknown in (token, secrets.token_urlsafe(32), "x", "\u00e9"):
            assert_refused(await use(admin.http, "/auth/reset", used_or_unknown))
        lines = await acts(admin)
        assert [line["action"] for line in lines] == ["password.reset", "user.reset"]
        assert lines[0]["actor"] == lines[0]["target"] == f"user:{user.principal.user_id}"
        assert token not in str(lines)


async def test_a_reset_link_ends_with_a_newer_one_a_new_role_and_the_rights_of_its_maker(server: Server) -> None:
    async with (
        new_admin(server, Role.OPERATOR) as operator,
        new_admin(server) as admin,
        new_admin(server, tenant_id=admin.principal.tenant_id) as user,
    ):
        path = f"/admin/users/{user.principal.user_id}"

        async def link() -> str:
            made = await admin.send("POST", f"{path}/reset")
            assert made.status == 201, made
            return str(made.body["token"])

        older = await link()
        before_the_role = await link()
        assert_refused(await use(admin.http, "/auth/reset", older))
        await operator.patch(path, {"role": "operator"})
        assert_refused(await use(admin.http, "/auth/reset", before_the_role))
        await operator.patch(path, {"role": "member"})
        before_the_fall = await link()
        await operator.patch(f"/admin/users/{admin.principal.user_id}", {"role": "member"})
        assert_refused(await use(admin.http, "/auth/reset", before_the_fall))
        assert (await login(user.http, user.email, PASSWORD)).status == 200


async def test_an_operator_resets_the_password_of_an_operator(server: Server) -> None:
    async with new_admin(server, Role.OPERATOR) as one, new_admin(server, Role.OPERATOR) as other:
        made = await one.post(f"/admin/users/{other.principal.user_id}/reset", {})
        assert (await use(one.http, "/auth/reset", made.body["token"])).status == 200
        assert (await login(other.http, other.email, NEW_PASSWORD)).status == 200


async def test_whoever_is_invited_becomes_a_user_with_the_default_quota(server: Server) -> None:
    async with new_admin(server) as admin, http_client(server) as stranger:
        await admin.patch(
            f"/admin/tenants/{admin.principal.tenant_id}", {"default_limit": 300, "default_period": "total"}
        )
        email = new_email()
        made = await admin.post("/admin/invitations", {"email": email.upper(), "role": "tenant_admin"})
        assert made.status == 201
        (listed,) = (await admin.get("/admin/invitations")).body["data"]
        assert listed == {name: made.body[name] for name in listed}
        assert (listed["email"], listed["role"]) == (email, "tenant_admin")
        assert not {"token", "url"} & listed.keys()
        accepted = await use(stranger, "/auth/invitations", made.body["token"])
        assert (accepted.status, accepted.body["role"], accepted.body["email"]) == (201, "tenant_admin", email)
        token = (await login(stranger, email, NEW_PASSWORD)).body["access_token"]
        (quota,) = (await admin.send("GET", "/me/quota", headers={"Authorization": f"Bearer {token}"})).body["quotas"]
        assert quota["limit"] == 300
        assert (await admin.get("/admin/invitations")).body["data"] == []
        assert_refused(await use(stranger, "/auth/invitations", made.body["token"]))
        lines = await acts(admin)
        assert [line["action"] for line in lines[:2]] == ["invitation.accept", "invitation.create"]
        assert lines[0]["actor"] == f"user:{accepted.body['user_id']}"
        assert email not in str(lines)
        assert made.body["token"] not in str(lines)


async def test_an_invitation_that_is_withdrawn_has_no_effect(server: Server) -> None:
    async with new_admin(server) as admin, new_admin(server) as other:
        made = await admin.post("/admin/invitations", {"email": new_email()})
        path = f"/admin/invitations/{made.body['id']}"
        theirs = await other.send("DELETE", path)
        absent = await other.send("DELETE", "/admin/invitations/inv_0123456789abcdef01234567")
        assert (theirs.status, theirs.body["detail"]) == (404, absent.body["detail"])
        assert (await admin.send("DELETE", "/admin/invitations/%00")).code == "not_found"
        assert (await admin.send("DELETE", path)).status == 204
        assert (await admin.send("DELETE", path)).code == "not_found"
        assert_refused(await use(admin.http, "/auth/invitations", made.body["token"]))
        member = await create(admin)
        taken = await admin.post("/admin/invitations", {"email": member["email"]})
        assert (taken.status, taken.code) == (422, "invalid_request")


async def test_a_token_of_one_kind_of_link_is_none_of_the_other(server: Server) -> None:
    async with new_admin(server) as admin:
        invitation = await admin.post("/admin/invitations", {"email": new_email()})
        reset = await admin.post(f"/admin/users/{(await create(admin))['id']}/reset", {})
        assert_refused(await use(admin.http, "/auth/reset", invitation.body["token"]))
        assert_refused(await use(admin.http, "/auth/invitations", reset.body["token"]))


async def test_a_body_is_strict_and_small(server: Server) -> None:
    async with http_client(server) as http:

        async def status_of(document: Any) -> int:
            async with http.post("/auth/reset", json=document) as response:
                return response.status

        assert await status_of({"token": "x"}) == 422
        assert await status_of({"token": "x", "password": PASSWORD, "role": "operator"}) == 422
        assert await status_of({"token": "x" * 101, "password": PASSWORD}) == 422
        assert await status_of({"token": "x", "password": "x" * 17_000}) == 413


async def test_the_page_of_a_link_runs_only_its_own_script(server: Server) -> None:
    async with http_client(server) as http:
        for path in ("/auth/reset", "/auth/invitations"):
            async with http.get(path) as response:
                policy = response.headers["Content-Security-Policy"]
                page = await response.text()
            assert policy.startswith("default-src 'none'; script-src 'sha256-")
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert len(re.findall("<script", page)) == 1
            assert not re.findall(r"(?:src|href|onclick|style)=", page)
