"""Templates over the admin API: who has the quota of one, what replaces it, and who may change it."""

from typing import Any

from journeys.support.admins import Admin, new_admin
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.test_admin_quotas import acts, assert_is_absent, of_user
from journeys.upstream.handle import scripted


async def test_each_user_and_each_conversation_has_the_quota_of_its_template(server: Server) -> None:
    async with (
        new_admin(server) as admin,
        new_admin(server) as stranger,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=None) as member,
    ):
        tenant_id = admin.principal.tenant_id
        sent = {"for_each": "user", "window": "day", "limit": 500_000, "reason": "a default"}
        absent = await stranger.post("/admin/quotas", sent | {"tenant_id": 2_000_000_000})
        assert_is_absent(await stranger.post("/admin/quotas", sent | {"tenant_id": tenant_id}), absent)
        assert (await member.get("/admin/quotas?for_each=user")).status == 403
        assert (await admin.post("/admin/quotas", of_user(member, for_each="user", limit=1))).status == 422
        made = await admin.post("/admin/quotas", sent)
        assert (made.status, made.body["for_each"], made.body["quota"]["limit"]) == (200, "user", 500_000)
        talk = sent | {"for_each": "conversation", "window": "total", "unit": "requests", "limit": 1}
        assert (await admin.post("/admin/quotas", talk)).body["quota"]["name"] == "each_conversation-total-requests"
        assert (await member.quota())["quotas"][0]["name"] == "user-day"
        first = await member.query(scripted(member.marker), session_id="talk")
        assert first.status == 200
        assert first.body["quota"]["limit"] == 1
        refused = await member.query(scripted(member.marker), session_id="talk")
        assert (refused.status, refused.code) == (429, "quota_exceeded")
        assert "1 of 1 in conversation-total-requests are used" in refused.body["detail"]
        assert (await member.query(scripted(member.marker), session_id="walk")).status == 200
        seen = (await member.get("/me/quota?session_id=talk")).body["quotas"]
        assert {one["name"]: one["remaining"] for one in seen}["conversation-total-requests"] == 0
        granted = await admin.post("/admin/quotas/grant", of_user(member, window="day", amount=70))
        assert (granted.status, granted.body["user_id"]) == (200, member.principal.user_id)
        assert granted.body["quota"]["limit"] == 500_070
        (listed,) = (await admin.get(f"/admin/quotas?user_id={member.principal.user_id}")).body["data"]
        assert [(one["name"], one["limit"]) for one in listed["quotas"]] == [("user-day", 500_070)]
        (templates,) = (await admin.get("/admin/quotas?for_each=user")).body["data"]
        assert [(one["name"], one["used"]) for one in templates["quotas"]] == [("each_user-day", 0)]
        await has_a_quota_for_each_run(admin, member)
        assert (await admin.post("/admin/quotas", of_user(member, window="day", limit=0))).status == 200
        assert (await member.query(scripted(member.marker))).status == 429
        targets = [act["target"] for act in await acts(admin)]
        user = f"user:{member.principal.user_id}"
        of_runs = ["tag:run=a", "each_tag:run"]
        assert targets == [user, *of_runs, user, f"each_conversation:{tenant_id}", f"each_user:{tenant_id}"]


async def has_a_quota_for_each_run(admin: Admin, member: ApiUser) -> None:
    """Each value of the tag `run` has one request. What is granted to one is not granted to another."""
    each = {"for_each": "tag:run", "window": "total", "unit": "requests", "limit": 1, "reason": "a cap per run"}
    assert (await admin.post("/admin/quotas", each)).status == 404
    assert (await admin.post("/admin/tags", {"name": "run"})).status == 201
    for wrong in ("tag", "tag:", "user:run", "tag:two words"):
        assert (await admin.post("/admin/quotas", each | {"for_each": wrong})).status == 422, wrong
    made = await admin.post("/admin/quotas", each)
    assert (made.status, made.body["for_each"]) == (200, "tag:run")
    assert made.body["quota"]["name"] == "each_tag-run-total-requests"

    async def ask(run: str) -> int:
        return (await member.query_with({"X-Tollkeeper-Tags": f"run={run}"}, scripted(member.marker))).status

    async def see(tag: str) -> tuple[int, Any]:
        headers = member.auth_headers | {"X-Tollkeeper-Tags": tag}
        async with member.http.get("/me/quota", headers=headers) as response:
            return response.status, await response.json()

    assert [await ask(run) for run in ("a", "a", "b")] == [200, 429, 200]
    granted = await admin.post("/admin/quotas/grant", {"tag": "run=a", "unit": "requests", "amount": 1, "reason": "on"})
    assert (granted.status, granted.body["tag"], granted.body["quota"]["limit"]) == (200, "run=a", 2)
    assert [await ask(run) for run in ("a", "a", "b")] == [200, 429, 429]
    for run, remaining in (("a", 0), ("c", 1)):
        seen = {one["name"]: one["remaining"] for one in (await see(f"run={run}"))[1]["quotas"]}
        assert seen["tag-run-total-requests"] == remaining
    status, refused = await see("team=a")
    assert (status, refused["code"]) == (400, "tag_refused")
