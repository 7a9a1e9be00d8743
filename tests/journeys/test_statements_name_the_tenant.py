"""Every statement of a call names the tenant of the rows that it reads or writes, on each endpoint and each database.

So a database that spreads the tables by tenant answers each from one node (`docs/guides/scaling-the-database.md`).
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from journeys.support.endpoints import ALL_ENDPOINTS, call
from journeys.support.server import Server
from journeys.support.users import new_user
from journeys.upstream.handle import Upstream, scripted
from tollkeeper.database.row_security import RIGHTS

SEGMENT = re.compile(r"(?=\b(?:SELECT|INSERT INTO|UPDATE (?!SET)|DELETE FROM)\b)")
"""A statement is looked at in parts, each of which reads or writes on its own."""
TABLE = re.compile(rf"\b(?:FROM|JOIN|INTO|UPDATE)\s+({'|'.join(RIGHTS)})\b")
NAMES_TENANT = re.compile(r"\btenant_id\s*(?:=|IN\b)")
INSERTS_TENANT = re.compile(r"^INSERT INTO \w+ \([^)]*\btenant_id\b")
NO_TENANT_YET = {
    r"FROM api_keys WHERE api_keys\.id": "the caller's tenant is found by the API key",
    r"SELECT id, tenant_id FROM charges WHERE closed_ms IS NULL": "the sweep serves all tenants",
    r"FROM jobs WHERE .*jobs\.tenant_id (?:<=|>) ": "the next background job is that of the tenant whose turn it is",
    r"FROM batches WHERE batches\.ended_ms IS NULL": "the next batch is that whose turn it is",
    r"^SELECT \* FROM (jobs|batches|documents|webhooks) ": "one look finds out in which queues something is due",
    r"FROM tenants WHERE tenants\.id|FROM tenants .*tenants\.id =": "the table of tenants has the tenant as its key",
}
"""Parts of statements without the tenant, and why."""


def unnamed(statement: str) -> list[str]:
    """The parts of a statement that touch rows of tenants, but do not say whose."""
    found = []
    for part in SEGMENT.split(statement):
        is_named = NAMES_TENANT.search(part) or INSERTS_TENANT.search(part)
        if TABLE.search(part) and not is_named and not any(re.search(known, part) for known in NO_TENANT_YET):
            found.append(part.strip())
    return found


@pytest.mark.exhaustive_on_postgres
async def test_the_statements_of_a_call_name_the_tenant(
    make_server: Callable[..., Server], database_url: str, upstream: Upstream, tmp_path: Path
) -> None:
    recorded = tmp_path / "statements"
    server = make_server(database_url, OPENAI_BASE_URL=upstream.base_url)
    server.start(("journeys.support.statement_recorder", str(recorded)))
    seen: set[str] = set()
    async with new_user(server, limit=100_000) as caller:
        for endpoint in ALL_ENDPOINTS:
            before = recorded.stat().st_size
            for _ in range(2):
                await call(caller, endpoint, scripted("hello"), "gpt-4o-mini")
            with recorded.open() as file:
                file.seek(before)
                sent = file.read().splitlines()
            assert any(TABLE.search(statement) for statement in sent), endpoint.name
            seen.update(sent)
    assert sorted(part for statement in seen for part in unnamed(statement)) == []
