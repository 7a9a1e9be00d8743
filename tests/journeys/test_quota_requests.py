"""Asking for more quota: what users ask for, what administrators decide, and that a grant is made once."""

import asyncio
from typing import Any

from journeys.support.admins import Admin, new_admin
from journeys.support.server import Server
from journeys.support.users import ApiUser, Reply, new_user
from journeys.upstream.handle import scripted
from tollkeeper.principal import Role
from tollkeeper.quota.rules.windows import Period

PATH, ADMIN_PATH = "/me/quota/requests", "/admin/quota-requests"


async def ask(member: ApiUser, **fields: Any) -> Reply:
    sent = {"tokens": 500, "reason": "the report is due"} | fields
    async with member.http.post(PATH, json=sent, headers=member.auth_headers) as response:
        return Reply(response.status, await response.json(), dict(response.headers))


async def limit_of(member: ApiUser) -> int:
    return int((await member.quota())["limit"])


async def requests_of(admin: Admin, query: str = "") -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = (await admin.get(f"{ADMIN_PATH}{query}")).body["data"]
    return data


async def test_a_refused_user_asks_and_is_granted_a_part_of_it_once(server: Server) -> None:
    async with (
        new_admin(server) as admin,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=1_000, period=Period.DAY) as member,
    ):
        spent = await member.query(scripted(member.marker, usage={"prompt_tokens": 900, "completion_tokens": 90}))
        assert spent.status == 200, spent.body
        refused = await member.query(scripted(member.marker))
        assert (refused.status, refused.code) == (429, "quota_exceeded")
        assert f"POST {PATH}" in refused.body["detail"]
        asked = await ask(member)
        assert (asked.status, asked.body["status"], asked.body["window"]) == (201, "pending", "day")
        assert asked.body == (await member.get(PATH)).body["data"][0]

        (listed,) = await requests_of(admin, "?status=pending")
        assert (listed["id"], listed["user_id"], listed["tokens"]) == (asked.body["id"], member.principal.user_id, 500)
        path = f"{ADMIN_PATH}/{listed['id']}"
        assert (await admin.post(f"{path}/grant", {"tokens": 501})).status == 422
        replies = await asyncio.gather(*(admin.post(f"{path}/grant", {"tokens": 300}) for _ in range(4)))
        assert {reply.status for reply in replies} == {200}, replies
        assert {reply.body["quota"]["limit"] for reply in replies} == {1_300}
        keyed = [await admin.post(f"{path}/grant", {"tokens": 300}, Idempotency_Key="once") for _ in range(2)]
        assert keyed[0].body == keyed[1].body
        assert await limit_of(member) == 1_300
        for late in (
            await admin.post(f"{path}/grant", {"tokens": 200}),
            await admin.post(f"{path}/decline", {"reason": "no"}),
        ):
            assert (late.status, late.code) == (409, "ledger_conflict")
        (mine,) = (await member.get(PATH)).body["data"]
        assert (mine["status"], mine["granted_tokens"]) == ("granted", 300)
        assert (await member.query(scripted(member.marker))).status == 200
        acts = (await admin.get("/admin/audit?action=quota_request.granted")).body["data"]
        assert [(act["after"]["granted"], act["after"]["request"]) for act in acts] == [(300, listed["id"])]


async def test_a_new_request_replaces_the_pending_one_and_a_declined_one_shows_why(server: Server) -> None:
    async with (
        new_admin(server) as admin,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=1_000) as member,
    ):
        events = ["quota.requested", "quota.declined"]
        hook = await admin.post("/admin/webhooks", {"url": "http://127.0.0.1:1/hook", "events": events})
        first = await ask(member)
        second = await ask(member, tokens=700, reason="more of it")
        assert [one["id"] for one in (await member.get(PATH)).body["data"]] == [second.body["id"]]
        path = f"{ADMIN_PATH}/{first.body['id']}"
        assert (await admin.post(f"{path}/grant", {})).status == 404, "an administrator has read the first one"
        path = f"{ADMIN_PATH}/{second.body['id']}"
        for _ in range(2):
            declined = await admin.post(f"{path}/decline", {"reason": "the month is spent"})
            assert (declined.status, declined.body["status"]) == (200, "declined")
        assert (await admin.post(f"{path}/grant", {})).status == 409
        sent = (await admin.get(f"/admin/webhooks/{hook.body['id']}/deliveries")).body["data"]
        assert sorted(one["event_type"] for one in sent) == ["quota.declined", "quota.requested", "quota.requested"], (
            sent
        )
        third = await ask(member)
        assert third.body["id"] not in (first.body["id"], second.body["id"])
        page = (await member.get(f"{PATH}?limit=1")).body
        assert [one["id"] for one in page["data"]] == [third.body["id"]]
        (older,) = (await member.get(f"{PATH}?limit=1&cursor={page['next_cursor']}")).body["data"]
        assert (older["status"], older["decision_reason"]) == ("declined", "the month is spent")
        assert await limit_of(member) == 1_000


async def test_only_what_can_be_granted_can_be_asked_for(server: Server) -> None:
    async with new_user(server, limit=1_000, period=Period.DAY) as member, new_user(server, limit=None) as without:
        for wrong in (
            {"window": "month"},
            {"tokens": 0},
            {"reason": ""},
            {"reason": "two\nlines"},
            {"unit": "usd"},
            {"window": "century"},
        ):
            assert (await ask(member, **wrong)).status == 422, wrong
        refused = await ask(without)
        assert (refused.status, "no token quota" in refused.body["detail"]) == (422, True)


async def test_operators_see_the_requests_of_all_tenants_and_erasure_deletes_them(server: Server) -> None:
    async with (
        new_admin(server, Role.OPERATOR) as operator,
        new_admin(server) as admin,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=1_000) as member,
    ):
        asked = await ask(member)
        query = f"?tenant_id={admin.principal.tenant_id}"
        assert [one["id"] for one in await requests_of(operator, query)] == [asked.body["id"]]
        assert (await operator.get(f"{ADMIN_PATH}?tenant_id=2000000000")).status == 404
        erased = await admin.post(f"/admin/users/{member.principal.user_id}/erase", {"reason": "request of the person"})
        assert erased.status == 200, erased.body
        assert await requests_of(operator, query) == []


async def test_a_key_asks_for_its_owner_and_no_number_of_requests_floods_the_administrator(server: Server) -> None:
    """One is pending for each window, whether a login or any of the keys has asked; a key for calls cannot ask."""
    async with (
        new_admin(server) as admin,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=1_000, period=Period.DAY) as member,
    ):
        quota = {"user_id": member.principal.user_id, "window": "month", "limit": 9_000, "reason": "a second one"}
        assert (await admin.post("/admin/quotas", quota)).status == 200
        keys = [await member.with_api_key(scopes=["me"]) for _ in range(2)]
        asked = [
            await ask(caller, window=window, tokens=number)
            for number in range(1, 6)
            for caller in (member, *keys)
            for window in ("day", "month")
        ]
        assert {reply.status for reply in asked} == {201}
        pending = await requests_of(admin, "?status=pending")
        assert {(one["user_id"], one["window"], one["tokens"]) for one in pending} == {
            (member.principal.user_id, "day", 5),
            (member.principal.user_id, "month", 5),
        }
        assert len(pending) == len((await member.get(PATH)).body["data"]) == 2
        assert (await ask(await member.with_api_key(scopes=["ai"]), window="day")).status == 403
        assert (await ask(keys[0], window="week")).status == 422
