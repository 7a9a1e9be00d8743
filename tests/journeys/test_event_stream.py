"""GET /admin/events: administrators see the calls of their tenant as they end, operators those of all."""

import json
from typing import Any

import aiohttp
import pytest

from journeys.support.admins import Admin, new_admin
from journeys.support.server import Server
from journeys.support.users import new_user
from support.deadlines import TEST_DEADLINE_S
from tollkeeper.gateway.event_tail import MAX_READERS_PER_USER
from tollkeeper.principal import Role

pytestmark = pytest.mark.exhaustive

SECRET_PROMPT = "the prompt is not in an event"


async def read_tail(admin: Admin, query: str = "", **headers: str) -> list[dict[str, str]]:
    sent = {"Authorization": f"Bearer {admin.token}"} | {name.replace("_", "-"): headers[name] for name in headers}
    async with admin.http.get(f"/admin/events{query}", headers=sent) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        text = await response.text()
    assert SECRET_PROMPT not in text
    return [fields(block) for block in text.split("\n\n") if block]


def fields(block: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in block.strip().split("\n"))


def charges(events: list[dict[str, str]]) -> list[str]:
    """Of the calls that have one. Others may be refused by the same server meanwhile."""
    return [charge_of(one) for one in events if json.loads(one["data"])["data"]["charge"] is not None]


def charge_of(one: dict[str, str]) -> str:
    assert one["event"] == "ai.response"
    data: dict[str, Any] = json.loads(one["data"])
    assert data["event_id"] == one["id"]
    return str(data["data"]["charge"]["id"])


async def test_each_role_sees_its_events_as_they_happen_until_its_login_ends(echo_server: Server) -> None:
    async with (
        new_user(echo_server) as member,
        new_admin(echo_server, tenant_id=member.principal.tenant_id) as admin,
        new_user(echo_server) as stranger,
        new_admin(echo_server, Role.OPERATOR) as operator,
    ):

        async def call(user: Any) -> str:
            reply = await user.query(SECRET_PROMPT)
            assert reply.status == 200, reply
            return str(reply.body["query_id"])

        made, of_stranger, newest = await call(member), await call(stranger), await call(member)
        seen = await read_tail(admin)
        assert charges(seen) == [made, newest]
        assert charges(await read_tail(admin, last_event_id=seen[0]["id"])) == [newest]
        assert charges(await read_tail(operator))[-3:] == [made, of_stranger, newest]
        assert charges(await read_tail(operator, f"?tenant_id={stranger.principal.tenant_id}")) == [of_stranger]
        other = f"/admin/events?follow=true&tenant_id={stranger.principal.tenant_id}"
        assert (await admin.get(other)).code == "not_found"
        assert (await member.get("/admin/events?follow=true")).code == "forbidden"

        headers = {"Authorization": f"Bearer {admin.token}"}
        stream = aiohttp.ClientTimeout(total=TEST_DEADLINE_S)
        opened = [
            await admin.http.get("/admin/events?follow=true", headers=headers, timeout=stream)
            for _ in range(MAX_READERS_PER_USER)
        ]
        refused = await admin.get("/admin/events")
        assert (refused.status, refused.code) == (429, "rate_limited")
        for response in opened[1:]:
            response.close()
        content = opened[0].content
        for expected in (made, newest):
            assert charge_of(fields((await content.readuntil(b"\n\n")).decode())) == expected
        await call(stranger)
        latest = await call(member)
        assert charge_of(fields((await content.readuntil(b"\n\n")).decode())) == latest
        assert (await admin.send("POST", "/auth/logout", {"all": True})).status == 204
        await call(member)
        rest = await content.read()
        assert rest.count(b"event: ") <= 1, "the stream has ended with its login"
