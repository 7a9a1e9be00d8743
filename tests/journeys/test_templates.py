"""Templates over the admin API: who has the quota of one, what replaces it, and who may change it."""

from journeys.support.admins import new_admin
from journeys.support.server import Server
from journeys.support.users import new_user
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
        assert (await admin.post("/admin/quotas", of_user(member, window="day", limit=0))).status == 200
        assert (await member.query(scripted(member.marker))).status == 429
        targets = [act["target"] for act in await acts(admin)]
        user = f"user:{member.principal.user_id}"
        assert targets == [user, user, f"each_conversation:{tenant_id}", f"each_user:{tenant_id}"]
