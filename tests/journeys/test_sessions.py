"""Sessions over HTTP: refresh, log out, list and end them; a revoked session is refused from the next request on."""

import asyncio
import json
import secrets
from collections.abc import Callable

import pytest

from journeys.support.admins import new_admin
from journeys.support.forged_tokens import forge
from journeys.support.logins import Person, new_person
from journeys.support.server import Server
from journeys.support.users import PASSWORD
from journeys.support.websocket import open_websocket
from tollkeeper.api.forms import FORM
from tollkeeper.principal import Role

NEW_PASSWORD = "a sentence that nobody else knows"
FORGED = f"tk-refresh-{'0' * 24}-0-{'x' * 43}-{'x' * 22}"


async def test_a_refresh_gives_new_tokens_of_the_same_session(server: Server) -> None:
    async with new_person(server) as person:
        first = await person.log_in()
        assert (first["token_type"], first["expires_in"]) == ("bearer", 900)
        reply = await person.refresh(first["refresh_token"])
        assert (reply.status, reply.body.keys()) == (200, first.keys())
        assert await person.is_accepted(reply.body["access_token"])
        assert await person.is_accepted(first["access_token"])
        (session,) = await person.sessions(reply.body["access_token"])
        assert (session["current"], session["method"], session["address"]) == (True, "password", "127.0.0.1")
        assert "aiohttp" in session["user_agent"]
        assert session["created_at"] <= session["last_used_at"] < session["expires_at"]


async def test_a_client_of_oauth2_refreshes_with_a_form(server: Server) -> None:
    async with new_person(server) as person:
        first = await person.log_in()
        form = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"], "client_id": "x", "scope": ""}
        async with person.http.post("/auth/refresh", data=form) as response:
            second = await response.json()
            assert (response.status, second.keys()) == (200, first.keys())
        for wrong in ({"grant_type": "password"}, {"refresh_token": ""}, {"refresh_token": "x" * 200}):
            async with person.http.post("/auth/refresh", data=form | wrong) as response:
                assert response.status == (401 if wrong == {"refresh_token": ""} else 422), wrong
        as_curl = json.dumps({"refresh_token": second["refresh_token"]})
        async with person.http.post("/auth/refresh", data=as_curl, headers={"Content-Type": FORM}) as response:
            assert response.status == 200


async def test_concurrent_refreshes_with_one_token_get_the_same_successor(server: Server) -> None:
    async with new_person(server) as person:
        first = await person.log_in()
        replies = await asyncio.gather(*(person.refresh(first["refresh_token"]) for _ in range(10)))
        assert {reply.status for reply in replies} == {200}
        (successor,) = {reply.body["refresh_token"] for reply in replies}
        assert (await person.refresh(successor)).status == 200


async def test_a_token_used_again_after_its_successor_ends_the_session_everywhere(server: Server) -> None:
    async with new_person(server) as person, new_admin(server, tenant_id=person.principal.tenant_id) as admin:
        first, other = await person.log_in(), await person.log_in()
        second = (await person.refresh(first["refresh_token"])).body
        third = (await person.refresh(second["refresh_token"])).body
        assert (await person.refresh(first["refresh_token"])).code == "unauthenticated"
        assert (await person.refresh(third["refresh_token"])).status == 401
        assert not await person.is_accepted(third["access_token"])
        assert await person.is_accepted(other["access_token"])
        lines = (await admin.get("/admin/audit")).body["data"]
        assert lines[0]["action"] == "session.reuse"
        logins = [line for line in lines if line["target"] == f"user:{person.principal.user_id}"]
        assert [line["after"]["method"] for line in logins] == ["password"] * 2
        assert lines[0]["target"] == f"session:{logins[-1]['after']['session']}"


async def test_no_forged_token_refreshes_or_ends_a_session(server: Server) -> None:
    async with new_person(server) as person:
        tokens = await person.log_in()
        text = tokens["refresh_token"]
        for forged in (FORGED, text[:-1] + ("A" if text[-1] != "A" else "B"), text.replace("-0-", "-1-", 1), "", "x"):
            for path in ("/auth/refresh", "/auth/logout"):
                assert (await person.send("POST", path, {"refresh_token": forged})).code == "unauthenticated"
        assert (await person.send("POST", "/auth/refresh")).status == 401
        assert (await person.send("POST", "/auth/refresh", {"refresh_token": "x" * 200})).status == 422
        assert (await person.send("POST", "/auth/refresh", {"refresh_token": text, "role": "x"})).status == 422
        assert (await person.send("POST", "/auth/refresh", {"refresh_token": "x" * 20_000})).status == 413
        assert (await person.send("GET", "/me", token=text)).status == 401
        assert (await person.refresh(text)).status == 200


@pytest.mark.parametrize("proof", ["access token", "refresh token"])
async def test_a_logout_ends_this_session_or_all(server: Server, proof: str) -> None:
    async def log_out(tokens: dict[str, str], **fields: bool) -> int:
        if proof == "access token":
            return (await person.send("POST", "/auth/logout", fields or None, token=tokens["access_token"])).status
        document = {"refresh_token": tokens["refresh_token"]} | fields
        return (await person.send("POST", "/auth/logout", document)).status

    async with new_person(server) as person:
        one, two, three = [await person.log_in() for _ in range(3)]
        assert await person.is_accepted(one["access_token"])
        assert await log_out(one) == 204
        assert not await person.is_accepted(one["access_token"])
        assert (await person.refresh(one["refresh_token"])).status == 401
        assert await log_out(one) == (401 if proof == "access token" else 204)
        assert await person.is_accepted(two["access_token"])
        assert await log_out(two, all=True) == 204
        assert not await person.is_accepted(two["access_token"])
        assert not await person.is_accepted(three["access_token"])
        assert (await person.send("POST", "/auth/logout")).status == 401


async def test_people_list_and_end_their_own_sessions_only(server: Server) -> None:
    async with new_person(server) as person, new_person(server) as stranger:
        old, new = await person.log_in(), await person.log_in()
        newest, oldest = await person.sessions(new["access_token"])
        assert (newest["current"], oldest["current"]) == (True, False)
        other = (await stranger.log_in())["access_token"]
        path = f"/auth/sessions/{oldest['id']}"
        theirs = await person.send("DELETE", path, token=other)
        nobodys = await person.send("DELETE", "/auth/sessions/ses_000000000000000000000000", token=other)
        assert (
            (theirs.status, theirs.body["detail"])
            == (nobodys.status, nobodys.body["detail"])
            == (404, theirs.body["detail"])
        )
        assert await person.is_accepted(old["access_token"])
        assert (await person.send("DELETE", path, token=new["access_token"])).status == 204
        assert not await person.is_accepted(old["access_token"])
        assert (await person.send("DELETE", path, token=new["access_token"])).status == 404


async def test_a_websocket_is_closed_when_its_session_ends(server: Server) -> None:
    async with new_person(server) as person:
        tokens = await person.log_in()
        async with open_websocket(server) as connection:
            await connection.send("auth", token=tokens["access_token"])
            assert (await connection.receive())["type"] == "ready"
            await person.send("POST", "/auth/logout", token=tokens["access_token"])
            await connection.send("query", prompt="hello")
            assert await connection.wait_closed() == 4401


async def test_a_new_password_ends_all_sessions_and_gives_tokens_of_a_new_one(server: Server) -> None:
    async with new_person(server) as person:
        mine, other = await person.log_in(), await person.log_in()

        async def change(current: str, new: str) -> tuple[int, dict[str, str]]:
            document = {"current_password": current, "new_password": new}
            reply = await person.send("POST", "/auth/password", document, token=mine["access_token"])
            return reply.status, reply.body

        assert (await change("wrong", NEW_PASSWORD))[0] == 401
        assert (await change(PASSWORD, "short"))[0] == 422
        assert await person.is_accepted(other["access_token"])
        status, tokens = await change(PASSWORD, NEW_PASSWORD)
        assert status == 200
        for ended in (mine, other):
            assert not await person.is_accepted(ended["access_token"])
            assert (await person.refresh(ended["refresh_token"])).status == 401
        assert await person.is_accepted(tokens["access_token"])
        assert (await person.refresh(tokens["refresh_token"])).status == 200
        assert (await person.try_login()).code == "invalid_credentials"
        await person.log_in(password=NEW_PASSWORD)


async def test_administrators_end_the_sessions_of_their_own_tenants_users(server: Server) -> None:
    async with (
        new_person(server) as person,
        new_person(server) as stranger,
        new_admin(server, tenant_id=person.principal.tenant_id) as admin,
        new_admin(server, Role.OPERATOR) as operator,
    ):
        tokens = [await person.log_in() for _ in range(4)]
        foreign = await stranger.log_in()
        (theirs,) = await stranger.sessions(foreign["access_token"])
        mine = f"/admin/users/{person.principal.user_id}"
        listed = (await admin.get(f"{mine}/sessions")).body["data"]
        assert [session["current"] for session in listed] == [False] * 4
        assert (await admin.send("DELETE", f"/admin/sessions/{listed[-1]['id']}")).status == 204
        assert [await person.is_accepted(one["access_token"]) for one in tokens] == [False, True, True, True]
        assert (await admin.send("DELETE", f"/admin/sessions/{listed[-1]['id']}")).status == 404
        for method, path, absent in (
            ("GET", f"/admin/users/{stranger.principal.user_id}/sessions", "/admin/users/2000000000/sessions"),
            ("DELETE", f"/admin/users/{stranger.principal.user_id}/sessions", "/admin/users/2000000000/sessions"),
            ("DELETE", f"/admin/users/{stranger.principal.user_id}/totp", "/admin/users/2000000000/totp"),
            ("DELETE", f"/admin/sessions/{theirs['id']}", "/admin/sessions/ses_000000000000000000000000"),
        ):
            replies = [await admin.send(method, one) for one in (path, absent)]
            assert {(reply.status, reply.code, reply.body["detail"]) for reply in replies} == {
                (404, "not_found", replies[0].body["detail"])
            }
        assert (await admin.send("DELETE", f"{mine}/sessions")).status == 204
        assert [await person.is_accepted(one["access_token"]) for one in tokens] == [False] * 4
        assert await stranger.is_accepted(foreign["access_token"])
        assert (await operator.send("DELETE", f"/admin/users/{stranger.principal.user_id}/sessions")).status == 204
        assert not await stranger.is_accepted(foreign["access_token"])
        actions = [line["action"] for line in (await admin.get("/admin/audit?limit=2")).body["data"]]
        assert actions == ["session.end_all", "session.end"]


async def test_a_tenants_administrator_does_not_manage_an_operator(server: Server) -> None:
    async with (
        new_admin(server, Role.OPERATOR) as operator,
        new_admin(server, tenant_id=operator.principal.tenant_id) as admin,
    ):
        for method, path in (("GET", "sessions"), ("DELETE", "sessions"), ("DELETE", "totp")):
            refused = await admin.send(method, f"/admin/users/{operator.principal.user_id}/{path}")
            assert refused.code == "forbidden", (method, path)
        assert (await operator.get("/me")).status == 200


async def test_what_gives_access_needs_a_fresh_login(server: Server) -> None:
    """A refresh does not make the login fresh."""
    async with new_person(server, Role.TENANT_ADMIN) as person:
        stale = forge(person.principal, {"auth_time": 1})
        for method, path, document in (
            ("POST", "/auth/keys", {"name": "robot"}),
            ("POST", "/auth/totp", None),
            ("DELETE", "/auth/totp", {"code": "000000"}),
            ("DELETE", f"/admin/users/{person.principal.user_id}/totp", None),
        ):
            refused = await person.send(method, path, document, token=stale)
            assert (refused.status, refused.code) == (403, "step_up_required"), path
        sessionless = forge(person.principal)
        assert (await person.send("POST", "/auth/logout", token=sessionless)).code == "forbidden"
        fresh = (await person.log_in())["access_token"]
        assert (await person.send("POST", "/auth/keys", {"name": "robot"}, token=fresh)).status == 201


async def test_forged_refresh_tokens_are_limited_per_address_and_good_ones_pass(
    make_server: Callable[..., Server], sqlite_url: str
) -> None:
    server = make_server(sqlite_url, OPENAI_API_KEY="", TOLLKEEPER_RATE_LIMIT_LOGIN="4/hour").start()
    async with new_person(server) as person:
        tokens = await person.log_in()
        statuses = [(await person.refresh(FORGED)).status for _ in range(6)]
        assert statuses == [401] * 4 + [429] * 2
        for _ in range(4):
            reply = await person.refresh(tokens["refresh_token"])
            assert reply.status == 200, "a genuine token is checked before any limiter of failures"
            tokens = reply.body
        assert (await person.refresh(tokens["refresh_token"])).status == 429, "but its session has a limit"
        wrong = await person.try_login(password=secrets.token_hex())
        assert wrong.status == 429
    server.stop()


async def test_failed_logins_are_counted_per_address_in_the_log_and_not_in_the_audit_log(
    make_server: Callable[..., Server], sqlite_url: str
) -> None:
    server = make_server(sqlite_url, OPENAI_API_KEY="").start()
    async with new_admin(server) as admin:
        person = Person(admin.principal, admin.email, admin.http)
        for _ in range(3):
            assert (await person.try_login(password="wrong")).status == 401
        assert [line["action"] for line in (await admin.get("/admin/audit")).body["data"]] == ["login"]
    server.stop()
    (line,) = [line for line in server.program.output.splitlines() if "auth.failed_logins" in line]
    assert '"count":3' in line
    assert '"address":"127.0.0.1"' in line
