"""A server behind pgbouncer in transaction mode, which gives each transaction another connection to PostgreSQL."""

import asyncio
import json
from collections.abc import Callable, Iterator

import pytest

from journeys.support.admins import new_admin
from journeys.support.endpoints import STREAMING_ENDPOINTS, open_call
from journeys.support.ledger_checks import assert_ledger_is_consistent, charges_in
from journeys.support.server import Server
from journeys.support.users import PASSWORD, login, new_user
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S
from support.pgbouncer import pgbouncer
from tollkeeper.principal import Role

pytestmark = [pytest.mark.stock_postgres, pytest.mark.postgres_versions]

USAGE = {"input": 15, "output": 9}
CALLS = 40
SETTINGS = {
    "TOLLKEEPER_PREPARED_STATEMENTS": "False",
    "TOLLKEEPER_LEASE_SECONDS": "1",
    "TOLLKEEPER_SWEEP_SECONDS": "0.2",
}


@pytest.fixture
def pooled_url(any_postgres_url: str) -> Iterator[str]:
    with pgbouncer(any_postgres_url) as url:
        yield url


@pytest.fixture
def pooled_server(
    make_server: Callable[..., Server], any_postgres_url: str, pooled_url: str, upstream: Upstream
) -> Server:
    """A server whose process reaches the database through pgbouncer only, not started."""
    server = make_server(any_postgres_url, OPENAI_BASE_URL=upstream.base_url, **SETTINGS)
    return server.configure(TOLLKEEPER_DATABASE_URL=pooled_url)


async def test_calls_streams_logins_administration_and_the_sweep_work_behind_pgbouncer(
    pooled_server: Server, upstream: Upstream
) -> None:
    server = pooled_server
    found = {one["check"]: (one["state"], one["detail"]) for one in json.loads(server.command("doctor", "--json"))}
    assert found["pooler"] == ("ok", "a connection pooler is in front of the database, and statements are not prepared")
    assert found["row security"] == ("ok", "requests see no rows of other tenants")
    server.start()
    assert "database.pooled" not in server.program.output
    async with (
        new_user(server) as caller,
        new_admin(server, tenant_id=caller.principal.tenant_id) as tenant_admin,
        new_admin(server, Role.OPERATOR) as operator,
        asyncio.timeout(TEST_DEADLINE_S),
    ):
        calls = (caller.query(scripted(caller.marker, usage=USAGE), max_tokens=50) for _ in range(CALLS))
        logins = (login(caller.http, caller.email, PASSWORD) for _ in range(5))
        replies = await asyncio.gather(*calls, *logins)
        assert [reply.status for reply in replies] == [200] * len(replies)
        for endpoint in STREAMING_ENDPOINTS:
            prompt = scripted(caller.marker, answer="one two three")
            async with open_call(caller, endpoint, prompt, "gpt-4o-mini", 50) as stream:
                await stream.read_all()
            assert (stream.answer.text, stream.answer.error) == ("one two three", None)
        assert (await caller.make_key()).status == 201
        own = await tenant_admin.get("/admin/users")
        assert {user["tenant_id"] for user in own.body["data"]} == {caller.principal.tenant_id}
        changed = await operator.post("/admin/tenants", {"name": f"tenant-{caller.marker}"})
        assert changed.status == 201

        lost = asyncio.create_task(caller.query(scripted(caller.marker, gate="never"), max_tokens=50))
        while not upstream.waiting("never"):
            await asyncio.sleep(0.02)
        server.program.kill()
        await asyncio.gather(lost, return_exceptions=True)
        server.assert_no_traceback()
        server.start()
        while any(charge.closed_ms is None for charge in await charges_in(server.database_url)):
            await asyncio.sleep(0.1)
    await assert_ledger_is_consistent(server.database_url)
    assert "open holds: 0\n" in server.command("ledger", "verify")
    server.stop()
    assert "prepared statement" not in server.program.output


async def test_prepared_statements_behind_a_pooler_are_named_as_the_cause(pooled_server: Server) -> None:
    """Whether a statement of the command itself has failed by then is a matter of the pooler's choice."""
    pooled_server.configure(TOLLKEEPER_PREPARED_STATEMENTS="True")
    printed = pooled_server.command("doctor", codes=(0, 1))
    assert "set TOLLKEEPER_PREPARED_STATEMENTS=False" in printed
