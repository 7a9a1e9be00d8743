"""A page of a tenant's charges reads only its rows, however many charges the tenant has."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from ledger_environment import LedgerEnvironment, open_ledger_environment
from sqlalchemy import text
from sqlmodel.ext.asyncio.session import AsyncSession

from support.factories import make_terms
from tollkeeper.chat import Usage
from tollkeeper.quota import queries
from tollkeeper.quota.rules.charge_row import CHARGE_COLUMNS
from tollkeeper.quota.rules.page import Subject

ROWS = 20_000
LIMIT = 20


@pytest.fixture
async def env(database_url: str) -> AsyncIterator[LedgerEnvironment]:
    async with open_ledger_environment(database_url, limit=10**9) as made:
        async with made.ledger.reservation(made.caller, make_terms()) as reservation:
            reservation.set_usage(Usage(1, 1))
        copied = ", ".join(column for column in CHARGE_COLUMNS if column not in ("id", "closed_ms"))
        await made.reader.execute(
            f"INSERT INTO charges (id, closed_ms, {copied}) WITH RECURSIVE numbers(n) AS"
            f" (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {ROWS})"
            f" SELECT substr(id, 1, 28) || (10000000 + n), 1, {copied} FROM charges, numbers"
        )
        if not database_url.startswith("sqlite"):
            await made.reader.execute("ANALYZE charges")  # as the server does by itself, after so many new rows
        yield made


async def test_a_page_of_a_tenants_charges_reads_only_its_rows(
    env: LedgerEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant_id, statements = env.caller.tenant_id, list[Any]()
    original = AsyncSession.exec

    async def note(session: AsyncSession, statement: Any, **options: Any) -> Any:
        statements.append(statement)
        return await original(session, statement, **options)

    monkeypatch.setattr(AsyncSession, "exec", note)
    async with env.database.session() as session:
        newest = await queries.charges_of_tenant(session, tenant_id, before=None, limit=LIMIT)
        older = await queries.charges_of_tenant(session, tenant_id, before=newest[-1].id, limit=LIMIT)
        owner = Subject(tenant_id, env.caller.user_id)
        assert older == await queries.charges_of(session, owner, before=newest[-1].id, limit=LIMIT)
        ids = [charge.id for charge in (*newest, *older)]
        assert (len(ids), ids) == (2 * LIMIT, sorted(set(ids), reverse=True))
        connection = await session.connection()
        dialect = connection.dialect
        is_sqlite = dialect.name == "sqlite"
        for statement in statements:
            written = statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
            explain = "EXPLAIN QUERY PLAN" if is_sqlite else "EXPLAIN"
            rows = (await connection.execute(text(f"{explain} {written}".replace(":", "\\:")))).all()
            plan = "\n".join(str(row[-1]) for row in rows)
            assert "SEARCH" in plan if is_sqlite else "Index Scan" in plan, plan
            assert "TEMP B-TREE" not in plan, plan
            assert "Sort  (" not in plan, f"partitions are merged, which needs no sort: {plan}"
            assert "Seq Scan" not in plan, plan
