"""What becomes of a call for which a quota has no room, as the quota is set."""

from journeys.support.admins import Admin, new_admin
from journeys.support.endpoints import NATIVE_STREAM, STREAMING_ENDPOINTS, WEBSOCKET, WHOLE_ENDPOINTS, call
from journeys.support.jobs import ended, submit
from journeys.support.server import Server
from journeys.support.users import new_user
from journeys.upstream.handle import scripted
from tollkeeper.principal import Role


async def set_quota(admin: Admin, **fields: object) -> dict[str, object]:
    reply = await admin.post("/admin/quotas", {"reason": "a test"} | fields)
    assert reply.status == 200, reply.body
    quota: dict[str, object] = reply.body["quota"]
    return quota


async def test_a_quota_that_only_reports_refuses_nothing_and_says_what_it_would_refuse(server: Server) -> None:
    async with new_admin(server, Role.OPERATOR) as admin, new_user(server, limit=10_000) as member:
        tenant = {"tenant_id": member.principal.tenant_id, "window": "month", "limit": 5}
        quota = await set_quota(admin, **tenant, when_spent="report_only")
        assert (quota["name"], quota["when_spent"]) == ("tenant-month", "report_only")
        answered = await member.query(scripted(member.marker))
        assert (answered.status, answered.headers["X-Quota-Would-Refuse"]) == (200, "tenant-month")
        assert answered.headers["X-Quota-Name"] == "user-total"
        streamed = await call(member, NATIVE_STREAM, scripted(member.marker), "gpt-4o-mini")
        assert (streamed.status, streamed.headers["X-Quota-Would-Refuse"]) == (200, "tenant-month")
        shown = {one["name"]: one for one in (await member.quota())["quotas"]}
        assert shown["tenant-month"]["used"] == shown["user-total"]["used"] > 5
        assert (await member.quota())["name"] == "user-total"

        kept = await set_quota(admin, **tenant)
        assert kept["when_spent"] == "report_only"
        assert (await set_quota(admin, **tenant, when_spent="block"))["when_spent"] == "block"
        refused = await member.query(scripted(member.marker))
        assert (refused.status, refused.code) == (429, "quota_exceeded")
        audit = (await admin.get(f"/admin/audit?limit=10&tenant_id={member.principal.tenant_id}")).body["data"]
        modes = [act["after"].get("when_spent") for act in audit if act["action"] == "quota.set"]
        assert modes[:3] == ["block", None, "report_only"]


async def test_a_cheaper_model_answers_where_a_quota_has_no_room_for_the_one_that_was_asked_for(server: Server) -> None:
    async with new_admin(server, Role.OPERATOR) as admin, new_user(server, limit=100_000) as member:
        budget = {"user_id": member.principal.user_id, "unit": "micro_usd", "window": "month", "limit": 600}
        for wrong in ({"when_spent": "fallback_model"}, {"fallback_model": "gpt-4o-mini"}):
            reply = await admin.post("/admin/quotas", {"reason": "a test"} | budget | wrong)
            assert (reply.status, "fallback_model" in reply.body["detail"]) == (422, True), reply.body
        unknown = budget | {"when_spent": "fallback_model", "fallback_model": "no\u200bname"}
        assert (await admin.post("/admin/quotas", {"reason": "a test"} | unknown)).status == 422
        quota = await set_quota(admin, **budget, when_spent="fallback_model", fallback_model="gpt-4o-mini")
        assert (quota["when_spent"], quota["fallback_model"]) == ("fallback_model", "gpt-4o-mini")

        prompt = scripted(member.marker)
        answered = await member.query(prompt, model="gpt-4o", max_tokens=200)
        assert (answered.status, answered.headers["X-Fallback-For"]) == (200, "gpt-4o"), answered.body
        assert (answered.body["model"], answered.body["fallback_for"]) == ("gpt-4o-mini", "gpt-4o")
        for endpoint in (*WHOLE_ENDPOINTS, *STREAMING_ENDPOINTS):
            sent = await call(member, endpoint, prompt, "gpt-4o", 200)
            assert sent.status == 200, endpoint
            if endpoint is not WEBSOCKET:
                assert sent.headers.get("X-Fallback-For") == "gpt-4o", endpoint
        submitted = await submit(member, prompt, model="gpt-4o", max_tokens=200)
        assert (submitted.status, submitted.headers["X-Fallback-For"]) == (202, "gpt-4o")
        job = await ended(member, submitted.body["job_id"])
        assert (job["result"]["model"], job["result"]["fallback_for"]) == ("gpt-4o-mini", "gpt-4o")
        assert {charge["model"] for charge in await member.charges()} == {"gpt-4o-mini"}

        asked = await member.query(prompt, model="gpt-4o-mini", max_tokens=200)
        assert "X-Fallback-For" not in asked.headers
        assert asked.body["fallback_for"] is None

        strict = await member.with_api_key(models=["gpt-4o"])
        refused = await strict.query(prompt, model="gpt-4o", max_tokens=200)
        assert (refused.status, refused.code) == (429, "quota_exceeded")
        await set_quota(admin, **budget, when_spent="block")
        refused = await member.query(prompt, model="gpt-4o", max_tokens=200)
        assert (refused.status, refused.code) == (429, "quota_exceeded")


async def test_another_model_takes_a_job_whose_quota_is_spent_when_it_starts(server: Server) -> None:
    """A quota per hour is held when a job starts, so that its submission has room for any model."""
    async with new_admin(server, Role.OPERATOR) as admin, new_user(server, limit=100_000) as member:
        budget = {"user_id": member.principal.user_id, "unit": "micro_usd", "window": "hour", "limit": 5_000}
        await set_quota(admin, **budget, when_spent="fallback_model", fallback_model="gpt-4o-mini")
        usage = {"prompt_tokens": 100, "completion_tokens": 300}
        first = await member.query(scripted(member.marker, usage=usage), model="gpt-4o", max_tokens=300)
        assert (first.status, first.body["model"]) == (200, "gpt-4o"), first.body

        submitted = await submit(member, scripted(member.marker), model="gpt-4o", max_tokens=200)
        assert (submitted.status, "X-Fallback-For" in submitted.headers) == (202, False)
        job = await ended(member, submitted.body["job_id"])
        assert (job["result"]["model"], job["result"]["fallback_for"]) == ("gpt-4o-mini", "gpt-4o"), job
        latest, reserved, _ = await member.charges()
        assert (latest["id"], latest["model"]) == (job["result"]["query_id"], "gpt-4o-mini")
        assert (latest["cost_usd"], latest["state"]) == (job["result"]["cost_usd"], "settled")
        assert (reserved["model"], reserved["state"], reserved["cost"]) == ("gpt-4o", "released", 0)
        quota = {one["name"]: one for one in (await member.quota())["quotas"]}["user-hour-usd"]
        spent = sum(round(float(charge["cost_usd"]) * 1_000_000) for charge in (first.body, latest))
        assert (quota["used"], quota["reserved"]) == (spent, 0)
