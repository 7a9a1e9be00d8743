"""Row-level security on PostgreSQL: a session of a request sees no row of another tenant, whatever its queries say."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy.exc import DBAPIError
from sqlmodel import SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

import tollkeeper.administration.models
import tollkeeper.alerts.models
import tollkeeper.audit_log.models
import tollkeeper.batches.models
import tollkeeper.configuration.models
import tollkeeper.contents.models
import tollkeeper.conversations.models
import tollkeeper.encryption.models
import tollkeeper.files.models
import tollkeeper.identity.models
import tollkeeper.identity.tag_models
import tollkeeper.jobs.models
import tollkeeper.moderation.counts
import tollkeeper.quota.rules.models
import tollkeeper.retrieval.models
import tollkeeper.usage.models
import tollkeeper.usage.statement_models
import tollkeeper.webhooks.models  # noqa: F401 - these fill the metadata
from support.database_owner import Owner, url_of
from support.factories import make_principal
from support.postgres_servers import execute
from tollkeeper.database.engine import Database, confine
from tollkeeper.database.migrations import alembic_config, migrate
from tollkeeper.database.row_security import RIGHTS
from tollkeeper.errors import ConfigurationError, DatabaseUnavailable
from tollkeeper.identity import accounts
from tollkeeper.tenant_scope import ALL_TENANTS, TenantScope

pytestmark = [pytest.mark.stock_postgres, pytest.mark.postgres_versions]

OWN, OTHER = 1, 2
DENIED = "42501"
"""The SQLSTATE of insufficient_privilege, which is that of a row that a policy refuses, too."""
CHECKED = {
    "role": "member",
    "status": "pending",
    "unit": "tokens",
    "period": "day",
    "state": "settled",
    "kind": "person",
}
"""Values for columns that accept only some."""
CHECKED_THERE = {"batches": {"status": "validating"}, "files": {"status": "ready"}}
"""The same, in these tables."""


def tables() -> dict[str, str]:
    """Every table of tenants, and its column with the tenant's id."""
    found = {name: "tenant_id" for name, table in SQLModel.metadata.tables.items() if "tenant_id" in table.columns}
    return found | {"tenants": "id", "policy": "tenant_id"}


def make_row(table: sa.Table, tenant_id: int) -> dict[str, Any]:
    """A row of a tenant. Every number is the tenant's, so that references lead to rows of the same tenant."""
    values: dict[type, Any] = {int: tenant_id, str: str(tenant_id), bytes: b"-", bool: False, float: 0.0}
    values[datetime] = datetime(2026, 1, 1, tzinfo=UTC)
    needed = [column for column in table.columns if not column.nullable]
    row = {column.name: values[getattr(column.type, "impl_instance", column.type).python_type] for column in needed}
    checked = CHECKED | CHECKED_THERE.get(table.name, {})
    return row | {name: value for name, value in checked.items() if isinstance(row.get(name), str)}


@pytest.fixture
async def filled(any_postgres_url: str) -> AsyncIterator[Database]:
    """A database with a row of two tenants in every table; its sessions use row-level security."""
    database = Database(any_postgres_url)
    assert await database.enable_row_security() is None
    async with database.session() as session:
        connection = await session.connection()
        for table in SQLModel.metadata.sorted_tables:
            if table.name in tables():
                await connection.execute(table.insert(), [make_row(table, tenant_id) for tenant_id in (OWN, OTHER)])
    yield database
    await database.close()


async def run(session: AsyncSession, statement: str) -> sa.CursorResult[Any]:
    return await (await session.connection()).execute(sa.text(statement))


async def refusal(database: Database, statement: str) -> str | None:
    """The SQLSTATE with which the own tenant's session is refused a statement; None if it changes no row."""
    try:
        async with database.session(TenantScope(OWN)) as session:
            assert (await run(session, statement)).rowcount == 0, statement
    except DBAPIError as error:
        return str(getattr(error.orig, "sqlstate", None))
    return None


async def tenants_seen(session: AsyncSession) -> dict[str, set[int]]:
    """For each table, whose rows a query without a condition returns."""
    return {
        table: set((await run(session, f"SELECT {column} FROM {table} WHERE {column} > 0")).scalars())
        for table, column in tables().items()
    }


def everywhere(*tenants: int) -> dict[str, set[int]]:
    return {table: set(tenants) for table in tables()}


async def test_every_table_with_a_tenant_is_behind_the_wall(any_postgres_url: str) -> None:
    """Also those that no model describes. A new table needs a policy in its migration, and its rights in RIGHTS.

    Requests have no rights on a partition: they reach its rows by the table that it is a part of.
    """
    database = Database(any_postgres_url)
    async with database.session() as session:
        query = (
            "SELECT table_name FROM information_schema.columns JOIN pg_class ON pg_class.oid = table_name::regclass"
            " WHERE column_name = 'tenant_id' AND table_schema = 'public' AND NOT relispartition"
        )
        found = set((await run(session, query)).scalars())
        guarded = set(
            (await run(session, "SELECT tablename FROM pg_policies WHERE policyname = 'of_tenant'")).scalars()
        )
        reachable = "SELECT name FROM ledger_partitions WHERE has_table_privilege('postgres_requests', name, 'SELECT')"
        assert list((await run(session, "SELECT name FROM ledger_partitions")).scalars())
        assert not list((await run(session, reachable)).scalars())
    await database.close()
    assert found | {"tenants"} == tables().keys() == RIGHTS.keys() == guarded


async def test_queries_without_a_condition_return_the_own_tenants_rows_only(filled: Database) -> None:
    async with filled.session(TenantScope(OWN)) as session:
        assert await tenants_seen(session) == everywhere(OWN)
    async with filled.session(TenantScope(3)) as session:
        assert await tenants_seen(session) == everywhere()


async def test_operators_and_sessions_without_a_scope_see_every_tenants_rows(filled: Database) -> None:
    for scope in (ALL_TENANTS, None):
        async with filled.session(scope) as session:
            assert await tenants_seen(session) == everywhere(OWN, OTHER)


async def test_no_row_of_another_tenant_can_be_written(filled: Database) -> None:
    for table, column in tables().items():
        rights = RIGHTS[table]
        to_change, to_delete = (None if right in rights else DENIED for right in ("UPDATE", "DELETE"))
        assert await refusal(filled, f"INSERT INTO {table} ({column}) VALUES ({OTHER})") == DENIED
        assert await refusal(filled, f"UPDATE {table} SET {column} = {OWN} WHERE {column} = {OTHER}") == to_change
        assert await refusal(filled, f"DELETE FROM {table} WHERE {column} = {OTHER}") == to_delete
        assert await refusal(filled, f"UPDATE {table} SET {column} = {OTHER}") == DENIED
    async with filled.session() as session:
        assert await tenants_seen(session) == everywhere(OWN, OTHER)


async def test_only_operators_switch_models_off(filled: Database) -> None:
    switch = "INSERT INTO switched_off (kind, name, reason, created_ms) VALUES ('model', 'm', '-', 0)"
    assert await refusal(filled, switch) == DENIED
    async with filled.session(ALL_TENANTS) as session:
        await run(session, switch)
    async with filled.session(TenantScope(OWN)) as session:
        assert (await run(session, "SELECT name FROM switched_off")).scalars().all() == ["m"]


async def test_the_ledger_and_the_audit_log_cannot_be_rewritten_by_a_request(filled: Database) -> None:
    for table in ("charges", "entries", "windows", "quotas"):
        assert await refusal(filled, f"UPDATE {table} SET tenant_id = {OWN}") == DENIED
        assert await refusal(filled, f"DELETE FROM {table}") == DENIED
    assert await refusal(filled, "UPDATE audit_lines SET action = '-'") == DENIED
    assert await refusal(filled, "DELETE FROM audit_lines") == DENIED


async def test_a_session_that_commits_and_goes_on_stays_behind_the_wall(filled: Database) -> None:
    async with filled.session(TenantScope(OWN)) as session:
        for _ in range(2):
            assert await tenants_seen(session) == everywhere(OWN)
            await session.commit()
        async with session.begin_nested():
            assert await tenants_seen(session) == everywhere(OWN)
        await session.rollback()
        assert await tenants_seen(session) == everywhere(OWN)


async def test_a_scope_does_not_outlive_its_session(filled: Database) -> None:
    """Not on the same connection, either; nor if no statement was sent, with which the settings would have gone."""
    for statements in (0, 1):
        async with filled.session(TenantScope(OWN)) as session:
            await session.connection()
            if statements:
                await run(session, "SELECT 1")
        assert await filled.revision() is not None
        async with filled.session() as session:
            assert (await tenants_seen(session))["users"] == {OWN, OTHER}


async def test_the_scope_takes_no_round_trip_of_its_own(filled: Database) -> None:
    sent: list[str] = []

    @sa.event.listens_for(filled._engine.sync_engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    async with filled.session(TenantScope(OWN)) as session:
        assert (await run(session, "SELECT id FROM users")).scalars().all() == [OWN]
    assert sent == ["SELECT id FROM users"]


async def test_a_session_is_confined_before_its_first_statement_or_not_at_all(database: Database) -> None:
    async with database.session() as session:
        await run(session, "SELECT 1")
        with pytest.raises(RuntimeError, match="outside the wall"):
            confine(session, TenantScope(OWN))


async def test_an_e_mail_address_is_unique_among_all_tenants(filled: Database) -> None:
    async with filled.session(TenantScope(OWN)) as session:
        assert await accounts.taken_emails(session, ["1", "2", "3"]) == {"1", "2"}


async def test_0011_can_be_taken_back_and_made_again(any_postgres_url: str) -> None:
    database = Database(any_postgres_url)
    callers = [await make_principal(database) for _ in range(2)]
    await asyncio.to_thread(command.downgrade, alembic_config(any_postgres_url), "0010")
    assert await database.enable_row_security() == "The schema has no policies."
    assert (await asyncio.to_thread(migrate, any_postgres_url)).problem is None
    assert await database.enable_row_security() is None
    async with database.session(TenantScope(callers[0].tenant_id)) as session:
        assert (await run(session, "SELECT id FROM users")).scalars().all() == [callers[0].user_id]
    await database.close()


@pytest.fixture
async def owner(any_postgres_url: str) -> AsyncIterator[Owner]:
    made = Owner(any_postgres_url)
    yield made
    await made.drop()


@pytest.mark.exhaustive
async def test_an_owner_who_may_create_roles_needs_nobody(owner: Owner) -> None:
    assert await owner.create("CREATEROLE") is None
    await check_wall(owner, is_up=True)


async def test_without_the_right_to_create_roles_all_works_without_the_wall_until_an_administrator_helps(
    owner: Owner,
) -> None:
    role = f"{owner.name}_requests"
    problem = await owner.create()
    assert problem is not None
    assert problem.startswith(f"There is no role {role}")
    await check_wall(owner, is_up=False)
    advice = problem.partition("run: ")[2].partition(" then run")[0]
    assert advice == f'CREATE ROLE "{role}" NOLOGIN; GRANT "{role}" TO "{owner.name}";'
    await execute(owner.admin_url, advice)
    database = Database(owner.url)
    lacking = await database.enable_row_security()
    await database.close()
    assert lacking is not None
    assert "lacks rights: SELECT ON admin_requests;" in lacking
    await check_wall(owner, is_up=False)
    assert (await asyncio.to_thread(migrate, owner.url)).problem is None
    await check_wall(owner, is_up=True)


@pytest.mark.exhaustive
async def test_a_role_that_can_do_more_than_it_should_is_not_used(owner: Owner) -> None:
    await owner.create("CREATEROLE")
    role = f"{owner.name}_requests"
    for attribute, opposite in (("LOGIN", "NOLOGIN"), ("BYPASSRLS", "NOBYPASSRLS")):
        await execute(owner.admin_url, f"ALTER ROLE {role} {attribute}")
        await check_wall(owner, is_up=False)
        await execute(owner.admin_url, f"ALTER ROLE {role} {opposite}")
    await execute(owner.admin_url, f"REVOKE {role} FROM {owner.name} CASCADE")
    await check_wall(owner, is_up=False)


async def check_wall(owner: Owner, *, is_up: bool) -> None:
    """Sessions work in either case; with the wall they see only their tenant's rows."""
    database = Database(owner.url)
    await database.require_current_schema()
    assert (await database.enable_row_security() is None) is is_up
    callers = [await make_principal(database) for _ in range(2)]
    async with database.session(TenantScope(callers[0].tenant_id)) as session:
        seen = set((await run(session, "SELECT id FROM users")).scalars())
    await database.close()
    assert (callers[1].user_id not in seen) is is_up
    assert callers[0].user_id in seen


async def test_a_user_from_whom_rows_would_be_hidden_is_refused(owner: Owner) -> None:
    await owner.create()
    other = f"{owner.name}_other"
    await execute(owner.admin_url, f"CREATE ROLE {other} LOGIN PASSWORD 'secret'")
    await execute(owner.url, f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {other}")
    database = Database(url_of(owner.url, other, owner.name))
    with pytest.raises(ConfigurationError, match="hides rows from its user"):
        await database.require_current_schema()
    assert not await database.is_ready()
    await execute(owner.admin_url, f"GRANT {owner.name} TO {other}")
    await database.require_current_schema()
    await database.close()
    await execute(owner.admin_url_here, f"DROP OWNED BY {other}")


@pytest.mark.exhaustive
async def test_a_role_that_has_vanished_makes_requests_fail_and_nothing_else(owner: Owner) -> None:
    await owner.create("CREATEROLE")
    database = Database(owner.url)
    assert await database.enable_row_security() is None
    caller = await make_principal(database)
    await execute(owner.admin_url_here, f"DROP OWNED BY {owner.name}_requests")
    await execute(owner.admin_url, f"DROP ROLE {owner.name}_requests")
    with pytest.raises(DatabaseUnavailable):
        async with database.session(TenantScope(caller.tenant_id)) as session:
            await run(session, "SELECT id FROM users")
    async with database.session() as session:
        assert (await run(session, "SELECT id FROM users")).scalars().all() == [caller.user_id]
    await database.close()
