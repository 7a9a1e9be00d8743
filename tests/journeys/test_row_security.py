"""Row-level security under a running server: which requests are behind the wall, and a server without it."""

from collections.abc import Callable

import pytest

from journeys.support.admins import new_admin
from journeys.support.server import Server
from journeys.support.users import PASSWORD, login, new_user
from journeys.upstream.handle import Upstream, scripted
from support.database_owner import Owner
from support.postgres_servers import execute
from tollkeeper.principal import Role

HIDE_USERS = "CREATE POLICY nobody ON users AS RESTRICTIVE USING (false)"
PATHS = (
    *(
        "/me",
        "/me/quota",
        "/me/quota/requests",
        "/admin/quota-requests",
        "/me/charges",
        "/ai/sessions",
        "/auth/keys",
        "/auth/sessions",
    ),
    *(
        "/admin/tenants",
        "/admin/users",
        "/admin/groups",
        "/admin/tags",
        "/admin/keys",
        "/admin/audit",
        "/admin/quotas",
        "/admin/charges",
    ),
)


async def test_requests_are_behind_the_wall_and_logins_and_calls_are_not(
    shared_postgres: Server, upstream: Upstream
) -> None:
    """A policy that hides every user is noticed by exactly what runs as the role of requests."""
    server = shared_postgres
    async with (
        new_user(server) as member,
        new_admin(server) as tenant_admin,
        new_admin(server, Role.OPERATOR) as operator,
    ):
        callers = (tenant_admin, operator)
        before = [(await caller.get(path)).status for caller in callers for path in PATHS]
        await execute(server.database_url, HIDE_USERS)
        try:
            hidden = [(await caller.get(path)).status for caller in callers for path in PATHS]
            logged_in = await login(member.http, member.email, PASSWORD)
            called = await member.query(scripted(member.marker, usage={"input": 15, "output": 9}))
        finally:
            await execute(server.database_url, "DROP POLICY nobody ON users")
        assert before == [200] * len(before)
        assert hidden == [401] * len(hidden)
        assert (logged_in.status, called.status) == (200, 200)
    server.assert_no_traceback()


@pytest.mark.exhaustive
async def test_a_server_works_for_a_database_user_who_may_not_create_roles(
    make_server: Callable[..., Server], postgres_url: str
) -> None:
    owner = Owner(postgres_url)
    try:
        assert await owner.create() is not None
        server = make_server(owner.url, OPENAI_API_KEY="")
        warning = server.command("migrate")
        assert "WARNING: Row-level security is not in use, the second wall between tenants. There is no role" in warning
        server.start()
        assert "database.row_security_unused" in server.program.output
        async with new_user(server) as member, new_admin(server) as admin:
            assert (await member.query("hello")).status == 200
            assert [(await admin.get(path)).status for path in PATHS] == [200] * len(PATHS)
            made = await admin.post("/admin/users", {"email": f"{owner.name}@example.com"})
            assert made.status == 201
        server.stop()
    finally:
        await owner.drop()
