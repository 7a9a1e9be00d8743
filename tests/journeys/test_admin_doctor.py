"""GET /admin/doctor: an operator sees what `tollkeeper doctor` finds on the host that answers."""

import asyncio

from journeys.support.admins import new_admin
from journeys.support.server import Server
from journeys.support.users import new_user
from tollkeeper.principal import Role

CHECKS = {"settings", "signing secret", "limits", "database", "writable", "row security", "data key", "clock", "files"}


async def test_an_operator_sees_the_checks_of_a_running_server(server: Server) -> None:
    async with new_admin(server, Role.OPERATOR) as operator:
        replies = await asyncio.gather(*(operator.get("/admin/doctor") for _ in range(5)))
        assert {reply.status for reply in replies} == {200}
        bodies = [reply.body for reply in replies]
        assert all(body == bodies[0] for body in bodies), "one run for all who wait"
        checks = {check.pop("check"): check for check in bodies[0]["checks"]}
        assert checks.keys() >= CHECKS
        assert ("pooler" in checks) == (not server.is_on_sqlite)
        assert not [name for name in checks if name.startswith("ask")], "no provider is called"
        for name in ("database", "writable", "data key", "clock"):
            assert (checks[name]["state"], checks[name]["advice"]) == ("ok", None), checks[name]
        assert checks["providers"]["state"] == "ok"
        assert "the default model is" in checks["providers"]["detail"]


async def test_only_operators_see_them(server: Server) -> None:
    async with new_admin(server) as admin, new_user(server) as member:
        for caller in (admin, member):
            reply = await caller.get("/admin/doctor")
            assert (reply.status, reply.code) == (403, "forbidden")
