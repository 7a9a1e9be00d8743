"""Quotas over the admin API: limits, grants, and whose quotas an administrator may change."""

import asyncio
from typing import Any

from journeys.support.admins import Admin, new_admin
from journeys.support.server import Server
from journeys.support.users import ApiUser, Reply, new_user
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S
from tollkeeper.principal import Role


def of_user(user: ApiUser, **fields: Any) -> dict[str, Any]:
    return {"user_id": user.principal.user_id, "reason": "a test"} | fields


async def acts(admin: Admin, query: str = "") -> list[dict[str, Any]]:
    """The administrative acts that the audit log has, the newest first."""
    data: list[dict[str, Any]] = (await admin.get(f"/admin/audit?limit=100{query}")).body["data"]
    return [act for act in data if act["action"].split(".")[0] in ("quota", "charge")]


def assert_is_absent(reply: Reply, absent: Reply) -> None:
    assert (reply.status, reply.code) == (absent.status, absent.code) == (404, "not_found")
    assert reply.body["detail"] == absent.body["detail"]


async def test_a_limit_is_set_and_granted_on_top_and_kept_by_the_next_limit(server: Server) -> None:
    async with (
        new_admin(server) as admin,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=None) as member,
    ):
        made = await admin.post("/admin/quotas", of_user(member, window="day", limit=1_000))
        assert made.status == 200, made.body
        assert (made.body["user_id"], made.body["quota"]["name"]) == (member.principal.user_id, "user-day")
        granted = await admin.post("/admin/quotas/grant", of_user(member, amount=70))
        assert granted.body["quota"]["limit"] == 1_070
        for until in ("9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"):
            refused = await admin.post("/admin/quotas/grant", of_user(member, amount=70, until=until))
            assert (refused.status, "not after the year 9998" in refused.body["detail"]) == (422, True)
        lowered = await admin.post("/admin/quotas", of_user(member, limit=900))
        assert lowered.body["quota"]["limit"] == 970
        (listed,) = (await admin.get(f"/admin/quotas?user_id={member.principal.user_id}")).body["data"]
        assert listed["quotas"] == [lowered.body["quota"]] == (await member.quota())["quotas"][:1]
        lines = await acts(admin)
        assert [(line["action"], line["target"], line["reason"]) for line in lines] == [
            (action, f"user:{member.principal.user_id}", "a test")
            for action in ("quota.set", "quota.grant", "quota.set")
        ]
        assert (lines[0]["before"], lines[0]["after"]["limit"]) == ({"limit": 1_000}, 900)
        assert [line["after"]["operation"] for line in lines] == [
            reply.body["operation"] for reply in (lowered, granted, made)
        ]
        assert {line["actor"] for line in lines} == {f"user:{admin.principal.user_id}"}


async def test_requests_and_calls_at_the_same_time_are_limited_and_a_hit_of_the_cache_is_a_request(
    server: Server, upstream: Upstream
) -> None:
    async with (
        new_admin(server) as admin,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=10_000) as member,
    ):
        made = await admin.post("/admin/quotas", of_user(member, unit="requests", window="day", limit=3))
        assert made.body["quota"]["name"] == "user-day-requests"
        made = await admin.post("/admin/quotas", of_user(member, unit="concurrency", limit=1))
        assert (made.body["quota"]["name"], made.body["quota"]["resets_at"]) == ("user-total-concurrency", None)
        wrong = await admin.post("/admin/quotas", of_user(member, unit="concurrency", window="day", limit=1))
        assert (wrong.status, "total" in wrong.body["detail"]) == (422, True)

        waiting = asyncio.create_task(member.query(scripted(member.marker, gate=member.marker)))
        await until_sent(upstream, member)
        full = await member.query(scripted(member.marker))
        assert (full.status, full.code, full.headers["Retry-After"]) == (429, "quota_held", "1")
        assert "1 of the 1 calls that user-total-concurrency admits are in flight" in full.body["detail"]
        upstream.open(member.marker)
        assert (await waiting).status == 200
        prompt = scripted(member.marker, answer="the same")
        asked, hit = [await member.query(prompt, cache=True) for _ in range(2)]
        assert (asked.body["from_cache"], hit.body["from_cache"]) == (False, True)
        for again in (scripted(member.marker), prompt):
            spent = await member.query(again, cache=True)
            assert (spent.status, spent.code) == (429, "quota_exceeded")
            assert "3 of 3 in user-day-requests are used" in spent.body["detail"]
        quotas = {quota["name"]: (quota["used"], quota["reserved"]) for quota in (await member.quota())["quotas"]}
        assert (quotas["user-day-requests"], quotas["user-total-concurrency"]) == ((3, 0), (0, 0))


async def test_a_quota_of_an_api_key_limits_its_calls_beside_the_quota_of_its_user(server: Server) -> None:
    async with (
        new_admin(server) as admin,
        new_admin(server) as stranger,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=10_000) as member,
    ):
        robot = await member.with_api_key()
        (key,) = (await admin.get(f"/admin/keys?user_id={member.principal.user_id}")).body["data"]
        key_id, other = key["id"], await member.with_api_key()
        sent = {"key_id": key_id, "unit": "requests", "window": "total", "limit": 1, "reason": "a trial"}
        absent = await stranger.post("/admin/quotas", sent | {"key_id": f"key_{'0' * 24}"})
        assert_is_absent(await stranger.post("/admin/quotas", sent), absent)
        made = await admin.post("/admin/quotas", sent)
        assert (made.status, made.body["key_id"], made.body["quota"]["name"]) == (200, key_id, "key-total-requests")
        assert (await robot.query(scripted(member.marker))).status == 200
        refused = await robot.query(scripted(member.marker))
        assert (refused.status, refused.code) == (429, "quota_exceeded")
        assert "1 of 1 in key-total-requests are used" in refused.body["detail"]
        for unlimited in (other, member):
            assert (await unlimited.query(scripted(member.marker))).status == 200
        assert [quota["name"] for quota in (await robot.quota())["quotas"]] == ["user-total", "key-total-requests"]
        assert [quota["name"] for quota in (await member.quota())["quotas"]] == ["user-total"]
        (listed,) = (await admin.get(f"/admin/quotas?key_id={key_id}")).body["data"]
        assert [quota["used"] for quota in listed["quotas"]] == [1]
        assert [act["target"] for act in await acts(admin)] == [f"key:{key_id}"]


async def until_sent(upstream: Upstream, member: ApiUser) -> None:
    async with asyncio.timeout(TEST_DEADLINE_S):
        while not upstream.waiting(member.marker):
            await asyncio.sleep(0.01)


async def test_a_repeated_grant_grants_once(server: Server) -> None:
    async with new_admin(server) as admin, new_user(server, tenant_id=admin.principal.tenant_id, limit=100) as member:
        sent = of_user(member, amount=5, unit="tokens")
        first = await admin.post("/admin/quotas/grant", sent, Idempotency_Key="g")
        again = await admin.post("/admin/quotas/grant", sent, Idempotency_Key="g")
        assert (first.status, first.body) == (again.status, again.body)
        other = await admin.post("/admin/quotas/grant", sent | {"amount": 6}, Idempotency_Key="g")
        assert (other.status, other.code) == (422, "idempotency_key_reused")
        at_once = await asyncio.gather(
            *(admin.post("/admin/quotas/grant", sent, Idempotency_Key="at-once") for _ in range(8))
        )
        assert {reply.status for reply in at_once} <= {200, 409}
        assert (await admin.post("/admin/quotas/grant", sent, Idempotency_Key="at-once")).status == 200
        assert (await member.quota())["limit"] == 110
        assert len(await acts(admin, "&action=quota.grant")) == 2


async def test_a_tenants_administrator_changes_only_quotas_of_its_users(server: Server) -> None:
    async with (
        new_admin(server) as ours,
        new_admin(server) as others,
        new_user(server, tenant_id=others.principal.tenant_id, limit=10) as stranger,
    ):
        own = {"tenant_id": ours.principal.tenant_id, "window": "day", "limit": 10**9, "reason": "more"}
        refused = await ours.post("/admin/quotas", own)
        assert (refused.status, refused.code) == (403, "forbidden")
        assert "quota of a tenant" in refused.body["detail"]
        for whose in ({"user_id": stranger.principal.user_id}, {"tenant_id": others.principal.tenant_id}):
            (name,) = whose
            for path, sent in (
                ("", {"window": "day", "limit": 5}),
                ("/grant", {"window": "day", "amount": 5}),
                ("/override", {"window": "day", "limit": 5, "until": "2038-01-16T00:00:00Z"}),
            ):
                fields = sent | {"reason": "mine"}
                absent = await ours.post(f"/admin/quotas{path}", fields | {name: 2_000_000_000})
                assert_is_absent(await ours.post(f"/admin/quotas{path}", fields | whose), absent)
            absent = await ours.get(f"/admin/quotas?{name}=2000000000")
            assert_is_absent(await ours.get(f"/admin/quotas?{name}={whose[name]}"), absent)
        assert await acts(ours) == await acts(others) == []
        assert (await stranger.quota())["limit"] == 10


async def test_an_operator_changes_a_tenants_quota_and_lists_all_of_a_tenant_in_pages(server: Server) -> None:
    async with new_admin(server) as admin, new_admin(server, Role.OPERATOR) as operator:
        tenant_id = admin.principal.tenant_id
        sent = {"tenant_id": tenant_id, "window": "month", "unit": "micro_usd", "limit": 7, "reason": "a contract"}
        made = await operator.post("/admin/quotas", sent)
        assert (made.body["user_id"], made.body["quota"]["name"]) == (None, "tenant-month-usd")
        found: list[Any] = []
        path = f"/admin/quotas?tenant_id={tenant_id}&limit=1"
        async with new_user(server, tenant_id=tenant_id, limit=30) as member:
            query = path
            while query:
                page = (await operator.get(query)).body
                found += page["data"]
                query = f"{path}&cursor={page['next_cursor']}" if page["next_cursor"] else ""
            assert [(one["user_id"], [quota["limit"] for quota in one["quotas"]]) for one in found] == [
                (None, [7]),
                (admin.principal.user_id, []),
                (member.principal.user_id, [30]),
            ]
        assert [one["tenant_id"] for one in (await admin.get("/admin/quotas?limit=100")).body["data"]] == [
            tenant_id
        ] * 3


async def test_what_cannot_be_planned_is_refused_and_not_noted(server: Server) -> None:
    async with (
        new_admin(server) as admin,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=None) as member,
    ):
        for path, sent in (
            ("/admin/quotas/grant", of_user(member, amount=5, window="day")),
            ("/admin/quotas", of_user(member, limit=5)),
            ("/admin/quotas", of_user(member, limit=10**15 + 1, window="day")),
            ("/admin/quotas", of_user(member, limit=5, window="year")),
            ("/admin/quotas", of_user(member, limit=5, window="day", reason=" ")),
            ("/admin/quotas", of_user(member, limit=5, window="day", reason="two\nlines")),
            ("/admin/quotas", of_user(member, limit=5, window="day", extra=1)),
            ("/admin/quotas", {"limit": 5, "window": "day", "reason": "nobody's"}),
            ("/admin/quotas", of_user(member, limit=5, window="day", tenant_id=admin.principal.tenant_id)),
        ):
            reply = await admin.post(path, sent)
            assert (reply.status, reply.code) == (422, "invalid_request"), (sent, reply.body)
        assert await acts(admin) == []


async def test_only_operators_change_the_quota_of_an_operator(server: Server) -> None:
    async with (
        new_admin(server) as admin,
        new_admin(server, Role.OPERATOR, tenant_id=admin.principal.tenant_id) as operator,
    ):
        of_operator = {"user_id": operator.principal.user_id, "reason": "a test", "window": "day"}
        assert (await operator.post("/admin/quotas", of_operator | {"limit": 100})).status == 200
        for path, sent in (("", {"limit": 0}), ("/grant", {"amount": 1})):
            refused = await admin.post(f"/admin/quotas{path}", of_operator | sent)
            assert (refused.status, refused.code) == (403, "forbidden")
        (listed,) = (await admin.get(f"/admin/quotas?user_id={operator.principal.user_id}")).body["data"]
        assert [quota["limit"] for quota in listed["quotas"]] == [100]
