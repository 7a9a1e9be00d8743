"""Operators verify the ledger and the audit log over the API, in the background."""

import asyncio

import pytest

from journeys.support.admins import Admin, new_admin
from journeys.support.server import Server
from journeys.support.users import new_user
from support.deadlines import TEST_DEADLINE_S
from tollkeeper.principal import Role


async def wait_for_result(operator: Admin, path: str) -> dict[str, object]:
    async with asyncio.timeout(TEST_DEADLINE_S):
        while (found := (await operator.get(path)).body)["state"] == "running":
            await asyncio.sleep(0.1)
    body: dict[str, object] = found
    return body


@pytest.mark.parametrize("what", ["ledger", "audit"])
async def test_a_verification_runs_in_the_background_and_its_report_is_kept(server: Server, what: str) -> None:
    path = f"/admin/{what}/verify"
    async with new_admin(server, Role.OPERATOR) as operator, new_user(server) as member:
        await member.query("Hello")
        started = await operator.post(path, None)
        assert (started.status, started.body["state"]) == (202, "running")
        again = await operator.post(path, None)
        assert again.body["started_at"] == started.body["started_at"], "one at a time"
        found = await wait_for_result(operator, path)
        assert (found["state"], found["error"]) == ("finished", None)
        report = found["report"]
        progress = found["progress"]
        assert isinstance(progress, dict)
        assert (progress["share"], progress["checked"]) == (1, progress["about"])
        assert isinstance(report, dict)
        assert (report["problem_count"], report["problems"]) == (0, [])
        counted = {"charges", "entries"} if what == "ledger" else {"lines"}
        assert {name: report[name] for name in counted} == progress["checked"]
        assert all(progress["checked"].values())
        (line, *_) = (await operator.get(f"/admin/audit?tenant_id=0&action={what}.verify")).body["data"]
        assert (line["tenant_id"], line["actor"]) == (None, f"user:{operator.principal.user_id}")


async def test_only_operators_verify(server: Server) -> None:
    async with new_admin(server) as admin:
        for path in ("/admin/ledger/verify", "/admin/audit/verify"):
            for method in ("GET", "POST"):
                reply = await admin.send(method, path)
                assert (reply.status, reply.code) == (403, "forbidden")


async def test_pages_of_the_audit_log_are_filtered(server: Server) -> None:
    async with (
        new_admin(server) as admin,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=5) as ada,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=5) as bob,
    ):
        for user in (ada, bob):
            sent = {"user_id": user.principal.user_id, "amount": 1, "reason": "a test"}
            await admin.post("/admin/quotas/grant", sent)
        of_ada = f"/admin/audit?target=user:{ada.principal.user_id}&action=quota.grant"
        (line,) = (await admin.get(of_ada)).body["data"]
        assert (line["target"], line["reason"]) == (f"user:{ada.principal.user_id}", "a test")
        actor = f"actor=user:{admin.principal.user_id}&action=quota.grant"
        assert len((await admin.get(f"/admin/audit?{actor}")).body["data"]) == 2
        assert (await admin.get(f"{of_ada}&to={line['at']}")).body["data"] == []
        assert len((await admin.get(f"{of_ada}&from={line['at']}")).body["data"]) == 1
        assert len((await admin.get(f"{of_ada}&from={line['at'][:10]}")).body["data"]) == 1
        assert (await admin.get(f"{of_ada}&to={line['at'][:10]}")).body["data"] == []
        wrong = await admin.get("/admin/audit?from=yesterday")
        assert (wrong.status, wrong.code) == (422, "invalid_request")
