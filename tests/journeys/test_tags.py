"""Tags of calls: which ones pass, on whose quotas they count, and what is reported of them."""

import json
from dataclasses import replace
from typing import Any

from journeys.support.admins import Admin, new_admin
from journeys.support.jobs import ended, submitted
from journeys.support.server import Server
from journeys.support.users import ApiUser, Reply, new_user
from journeys.test_usage import add_up, report
from journeys.upstream.handle import scripted
from support.event_schema import assert_valid


async def declare(admin: Admin, name: str, **terms: Any) -> int:
    made = await admin.post("/admin/tags", {"name": name} | terms)
    assert made.status == 201, made.body
    return int(made.body["id"])


async def limit(admin: Admin, tag: str, **fields: Any) -> Reply:
    wanted = {"tag": tag, "unit": "requests", "window": "total", "limit": 3, "reason": "a cost centre"}
    return await admin.post("/admin/quotas", wanted | fields)


async def ask(user: ApiUser, tags: str | None = None, **headers: str) -> Reply:
    sent = headers if tags is None else headers | {"X-Tollkeeper-Tags": tags}
    return await user.query_with(sent, scripted(user.marker))


async def test_events_have_the_tags_and_the_group_of_the_charge(server: Server) -> None:
    """Also of a call that is refused; the default group is known by its charge alone."""
    async with (
        new_admin(server) as admin,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=100_000) as ada,
    ):
        await declare(admin, "run")
        group = (await admin.post("/admin/groups", {"name": "heron"})).body["id"]
        member = f"/admin/groups/{group}/members/{ada.principal.user_id}"
        assert (await admin.send("PUT", member, {"default": False})).status == 200
        assert (await ask(ada, "run=a")).status == 200
        assert (await ask(ada, "run=b", **{"X-Tollkeeper-Group": "heron"})).status == 200
        assert (await ask(ada, "run=b", **{"X-Tollkeeper-Group": "crane"})).status == 403
        assert (await admin.send("PUT", member, {"default": True})).status == 200
        assert (await ask(ada)).status == 200
        async with admin.http.get("/admin/events", headers={"Authorization": f"Bearer {admin.token}"}) as response:
            lines = [line for line in (await response.text()).splitlines() if line.startswith("data: ")]
        seen = [json.loads(line.removeprefix("data: ")) for line in lines]
        assert_valid(seen)
        assert [(one["data"]["tags"], one["data"]["group"]) for one in seen] == [
            ({"run": "a"}, None),
            ({"run": "b"}, {"id": group, "name": "heron"}),
            ({"run": "b"}, {"id": None, "name": "crane"}),
            ({}, {"id": group, "name": None}),
        ]
        of_charges = {one["id"]: (one["tags"] or {}, one["group_id"]) for one in await ada.charges()}
        of_events = {
            one["data"]["charge"]["id"]: (one["data"]["tags"], (one["data"]["group"] or {"id": None})["id"])
            for one in seen
            if one["data"]["charge"] is not None
        }
        assert of_events == of_charges


async def test_calls_count_for_the_tags_that_their_header_or_their_key_names(server: Server) -> None:
    async with (
        new_admin(server) as admin,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=100_000) as ada,
    ):
        await declare(admin, "cost-centre", values=["42", "43"])
        await declare(admin, "run", max_values=2)
        made = await limit(admin, "cost-centre=42")
        assert (made.status, made.body["tag"], made.body["quota"]["name"]) == (
            200,
            "cost-centre=42",
            "tag-cost-centre-total-requests",
        )
        key = {"user_id": ada.principal.user_id, "name": "robot", "tags": {"cost-centre": "42"}}
        keyed = await admin.post("/admin/keys", key)
        assert (keyed.status, keyed.body["tags"]) == (201, {"cost-centre": "42"})
        robot = replace(ada, token=keyed.body["key"])

        assert (await ask(ada, "run=a, cost-centre=42")).status == 200
        once = {"Idempotency-Key": "once"}
        answers = [await ask(robot, "cost-centre=43,run=a", **once) for _ in range(2)]
        assert [(one.status, one.headers.get("Idempotent-Replayed")) for one in answers] == [(200, None), (200, "true")]
        assert (await ask(robot, "cost-centre=43", **once)).code == "idempotency_key_reused"
        assert (await ended(robot, await submitted(robot, scripted(ada.marker))))["status"] == "completed"
        for user, tags in ((ada, "cost-centre=42"), (robot, None), (robot, "cost-centre=43")):
            refused = await ask(user, tags)
            assert (refused.status, refused.code) == (429, "quota_exceeded")
            assert "3 of 3 in tag-cost-centre-total-requests are used" in refused.body["detail"]
        assert [(await ask(ada, tags)).status for tags in (None, "cost-centre=43", "run=b")] == [200, 200, 200]

        tagged = [charge["tags"] for charge in await ada.charges() if charge["tags"]]
        both = {"cost-centre": "42", "run": "a"}
        assert tagged == [{"run": "b"}, {"cost-centre": "43"}, {"cost-centre": "42"}, both, both, both]
        (shown,) = (await admin.get("/admin/quotas?tag=cost-centre%3D42")).body["data"]
        assert [quota["used"] for quota in shown["quotas"]] == [3]
        names = [quota["name"] for quota in (await robot.quota())["quotas"]]
        assert "tag-cost-centre-total-requests" in names
        assert "tag-cost-centre-total-requests" not in [quota["name"] for quota in (await ada.quota())["quotas"]]

        await add_up(server)
        for reader, path in ((ada, "/me/usage"), (admin, "/admin/usage")):
            found = await report(reader, f"{path}?group_by=tag&tag=run")
            assert {line["value"]: line["calls"] for line in found["data"]} == {"run=a": 2, "run=b": 1}
            assert found["total"]["calls"] == 3
            found = await report(reader, f"{path}?group_by=model&tag=cost-centre%3D42")
            assert [line["calls"] for line in found["data"]] == [3]


async def test_only_declared_tags_pass(server: Server) -> None:
    async with (
        new_admin(server) as admin,
        new_admin(server) as stranger,
        new_user(server, tenant_id=admin.principal.tenant_id, limit=100_000) as ada,
    ):
        centre = await declare(admin, "cost-centre", values=["42"])
        run = await declare(admin, "run", max_values=1)
        reasons = {
            "team=a": "Your tenant has not declared the tag team",
            "cost-centre=43": "may not have the value 43",
            "run=a,run=b": "names the tag run twice",
            "run": "A tag is name=value",
            "run=two words": "A tag is name=value",
            ",".join(f"t{number}=1" for number in range(9)): "at most 8 tags",
        }
        assert (await ask(ada, "run=a")).status == 200
        for tags, reason in (reasons | {"run=b": "has 1 values, all that it may have"}).items():
            refused = await ask(ada, tags)
            assert (refused.status, refused.code) == (400, "tag_refused"), tags
            assert reason in refused.body["detail"]
        assert (await admin.get(f"/admin/tags/{run}/values")).body["data"] == [{"value": "a"}]
        changed = await admin.send("PUT", f"/admin/tags/{run}", {"max_values": 2, "required": True})
        assert (changed.status, changed.body["known_values"], changed.body["required"]) == (200, 1, True)
        assert [(await ask(ada, tags)).status for tags in ("run=b", "run=c", None)] == [200, 400, 400]
        assert "requires the tag run" in (await ask(ada)).body["detail"]
        own = [{"name": "cost-centre", "required": False}, {"name": "run", "required": True}]
        assert (await ada.get("/me")).body["tags"] == own
        assert (await stranger.get("/me")).body["tags"] == []
        assert (await admin.send("PUT", f"/admin/tags/{run}", {"values": ["c"]})).status == 200
        assert [(await ask(ada, tags)).status for tags in ("run=a", "run=c", None)] == [400, 200, 200]

        assert (await declare_again(admin)).code == "invalid_request"
        assert (await limit(admin, "run=zzz")).code == "tag_refused"
        assert (await limit(stranger, "run=c")).code == "tag_refused"
        assert (await limit(stranger, "run=c", tenant_id=admin.principal.tenant_id)).code == "not_found"
        for tag in (centre, run):
            assert (await stranger.send("DELETE", f"/admin/tags/{tag}")).status == 404
            assert (await admin.send("DELETE", f"/admin/tags/{tag}")).status == 204
        assert (await admin.get("/admin/tags")).body["data"] == (await ada.get("/me")).body["tags"] == []
        assert (await ask(ada, "run=c")).code == "tag_refused"
        lines = (await admin.get("/admin/audit?limit=100")).body["data"]
        done = [line["action"] for line in lines if line["action"].startswith("tag.")]
        assert done == ["tag.close"] * 2 + ["tag.change"] * 2 + ["tag.declare"] * 2


async def declare_again(admin: Admin) -> Reply:
    return await admin.post("/admin/tags", {"name": "run"})
