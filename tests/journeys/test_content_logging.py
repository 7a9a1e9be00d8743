"""A tenant turns content logging on for itself: its administrators read what its calls asked and were answered."""

import pytest

from journeys.support.admins import Admin, new_admin
from journeys.support.endpoints import ALL_ENDPOINTS, call
from journeys.support.live_changes import until
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.upstream.handle import scripted
from tollkeeper.principal import Role

pytestmark = pytest.mark.prove_only_on_postgres

ANSWER = "confidential-answer"


async def turn_on(admin: Admin, caller: ApiUser, prompt: str) -> int:
    """Turn content logging on, and wait until that is in force. Returns how many contents are stored."""
    changed = await admin.patch(f"/admin/tenants/{admin.principal.tenant_id}", {"content_logging": True})
    assert (changed.status, changed.body["content_logging"]) == (200, True), changed
    assert (await caller.get("/me")).body["content_logging"] is True
    made: list[str] = []

    async def is_stored() -> bool:
        made.append((await caller.query(prompt)).body["query_id"])
        return bool((await admin.get("/admin/contents")).body["data"])

    await until(is_stored)

    async def last_is_stored() -> bool:
        return (await admin.get(f"/admin/contents/{made[-1]}")).status == 200

    await until(last_is_stored)
    return len((await admin.get("/admin/contents?limit=100")).body["data"])


async def test_a_tenant_has_its_contents_stored_from_the_moment_it_wants_that(server: Server) -> None:
    async with (
        new_user(server) as caller,
        new_admin(server, tenant_id=caller.principal.tenant_id) as admin,
        new_admin(server, Role.OPERATOR) as operator,
    ):
        prompt = scripted(caller.marker, answer=ANSWER)
        path = f"/admin/tenants/{caller.principal.tenant_id}"
        assert (await caller.get("/me")).body["content_logging"] is False
        assert (await operator.patch(path, {"content_logging": True})).status == 403
        assert (await caller.query(prompt)).status == 200
        stored = await turn_on(admin, caller, prompt)
        for endpoint in ALL_ENDPOINTS:
            assert (await call(caller, endpoint, prompt, "gpt-4o-mini")).status == 200
        charges = {charge["id"]: charge["surface"] for charge in await caller.charges()}

        async def all_are_stored() -> bool:
            return len((await admin.get("/admin/contents?limit=100")).body["data"]) == stored + len(ALL_ENDPOINTS)

        await until(all_are_stored)
        found = (await admin.get(f"/admin/contents?limit={len(ALL_ENDPOINTS)}")).body["data"]
        for summary in found:
            assert charges[summary["charge_id"]] == summary["surface"]
            content = await admin.get(f"/admin/contents/{summary['charge_id']}")
            assert content.status == 200, content
            assert caller.marker in str(content.body["messages"])
            assert (ANSWER in str(content.body["answer"])) is (summary["surface"] != "embeddings")
        first = await admin.get("/admin/contents?limit=2")
        second = await admin.get(f"/admin/contents?limit=2&cursor={first.body['next_cursor']}")
        assert first.body["data"] + second.body["data"] == found[:4]
        lines = (await admin.get("/admin/audit?action=content.read&limit=100")).body["data"]
        assert {line["target"] for line in lines} >= {f"charge:{summary['charge_id']}" for summary in found}
        [line] = (await admin.get("/admin/audit?action=tenant.change")).body["data"]
        assert (line["before"]["content_logging"], line["after"]["content_logging"]) == (False, True)
        one = f"/admin/contents/{found[0]['charge_id']}"
        assert [(await operator.get(one)).status, (await operator.get("/admin/contents")).body["data"]] == [404, []]
        assert (await caller.get(one)).status == 403
        assert (await operator.patch(path, {"content_days": 3})).status == 403
        assert (await operator.patch(path, {"content_logging": False})).status == 200
        assert (await caller.get("/me")).body["content_logging"] is False
    assert ANSWER not in server.program.output
