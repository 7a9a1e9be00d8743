"""The migrations make the schema that the code was written for, on both databases."""

import asyncio
import sqlite3
from dataclasses import fields
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import SQLModel

import tollkeeper.administration.models
import tollkeeper.alerts.models
import tollkeeper.audit_log.models
import tollkeeper.batches.models
import tollkeeper.configuration.models
import tollkeeper.contents.models
import tollkeeper.conversations.models
import tollkeeper.encryption.models
import tollkeeper.files.models
import tollkeeper.identity.tag_models
import tollkeeper.jobs.models
import tollkeeper.moderation.counts
import tollkeeper.retrieval.models
import tollkeeper.scores.counts
import tollkeeper.usage.models
import tollkeeper.usage.statement_models
import tollkeeper.webhooks.models  # noqa: F401 - these fill the metadata
from support.factories import make_principal, make_store, make_terms, set_limit, user_quota
from tollkeeper.chat import Usage
from tollkeeper.database import engine
from tollkeeper.database.engine import SCHEMA_REVISION, Database, async_url
from tollkeeper.database.migrations import alembic_config, migrate
from tollkeeper.errors import ConfigurationError
from tollkeeper.principal import Principal
from tollkeeper.quota.audit.verify import verify
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.charge_row import CHARGE_COLUMNS, ChargeRow
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest, StoredResponse
from tollkeeper.quota.rules.models import Charge, Entry
from tollkeeper.quota.rules.page import EntryRow


async def inspected(database_url: str) -> tuple[list[object], set[str]]:
    """What autogenerate would change, and the tables there are."""

    def look(connection: sa.Connection) -> tuple[list[object], set[str]]:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        names = set(sa.inspect(connection).get_table_names())
        if connection.dialect.name == "postgresql":
            partitions = connection.execute(sa.text("SELECT relname FROM pg_class WHERE relispartition"))
            names -= set(partitions.scalars())
        return list(compare_metadata(context, SQLModel.metadata)), names

    engine = create_async_engine(async_url(database_url))
    async with engine.connect() as connection:
        found = await connection.run_sync(look)
    await engine.dispose()
    return found


async def test_the_migrations_make_what_the_models_say(database_url: str) -> None:
    """Tables and columns are the same; the indexes, checks and triggers are the migrations' own.

    On SQLite the id of a window is the whole key, so that an entry refers to it without the tenant.
    """
    differences, tables = await inspected(database_url)
    kinds = {str(kind) for difference in differences if isinstance(kind := difference[0], str)}  # type: ignore[index]
    own = {"remove_table", "remove_index", "remove_constraint", "add_constraint"}
    own |= {"remove_column"} | ({"add_fk", "remove_fk"} if database_url.startswith("sqlite") else set())
    assert kinds <= own, differences
    removed = {str(difference[3]) for difference in differences if difference[0] == "remove_column"}  # type: ignore[index]
    assert removed <= {"document_chunks.words"}  # PostgreSQL's index of words
    foreign = [difference[1] for difference in differences if str(difference[0]).endswith("_fk")]  # type: ignore[index]
    assert {constraint.table.name for constraint in foreign} <= {"entries"}
    assert not [difference for difference in differences if isinstance(difference, list)], differences
    index = {name for name in tables if name.startswith("chunk_words")}  # of FTS5, with the tables that it makes
    assert bool(index) == database_url.startswith("sqlite")
    assert tables - index == {"alembic_version", "policy", "schema_compatibility", *SQLModel.metadata.tables}


def test_the_code_names_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(alembic_config("sqlite:///x")).get_current_head() == SCHEMA_REVISION


async def test_migrating_twice_changes_nothing_and_going_back_leaves_nothing(database_url: str) -> None:
    await asyncio.to_thread(migrate, database_url)
    database = Database(database_url)
    await database.require_current_schema()
    await asyncio.to_thread(command.downgrade, alembic_config(database_url), "base")
    _, tables = await inspected(database_url)
    assert tables == {"alembic_version"}
    with pytest.raises(ConfigurationError, match="tollkeeper migrate"):
        await database.require_current_schema()
    await database.close()


class CountingDatabase(Database):
    """Counts how often its schema is queried."""

    queries = 0

    async def require_current_schema(self) -> None:
        self.queries += 1
        await super().require_current_schema()


async def test_readiness_is_queried_once_for_all_who_ask_within_a_second(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "READINESS_LIFETIME_S", 60)
    database = CountingDatabase(database_url)
    assert all(await asyncio.gather(*(database.is_ready() for _ in range(50))))
    assert await database.is_ready()
    assert database.queries == 1
    monkeypatch.setattr(engine, "SCHEMA_REVISION", "9999")
    monkeypatch.setattr(engine, "READINESS_LIFETIME_S", 0)
    assert not await database.is_ready()
    assert database.queries == 2
    await database.close()


async def test_a_schema_that_is_absent_or_another_is_refused(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/new.db")
    with pytest.raises(ConfigurationError, match="no schema yet"):
        await database.require_current_schema()
    with sqlite3.connect(tmp_path / "new.db") as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.execute("INSERT INTO alembic_version VALUES ('0000')")
    connection.close()
    with pytest.raises(ConfigurationError, match="is at 0000"):
        await database.require_current_schema()
    await database.close()


@pytest.mark.parametrize("oldest", ["0001", SCHEMA_REVISION, "9998", None])
async def test_a_newer_schema_is_served_on_if_it_says_so(database_url: str, oldest: str | None) -> None:
    engine = create_async_engine(async_url(database_url))
    async with engine.begin() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        if oldest is None:
            await connection.execute(sa.text("DROP TABLE schema_compatibility"))
        else:
            await connection.execute(sa.text(f"UPDATE schema_compatibility SET oldest_revision = '{oldest}'"))
    await engine.dispose()
    database = Database(database_url)
    if oldest is not None and oldest <= SCHEMA_REVISION:
        await database.require_current_schema()
        assert await database.is_ready()
    else:
        with pytest.raises(ConfigurationError, match="is at 9999, which this version"):
            await database.require_current_schema()
    await database.close()
    with pytest.raises(ConfigurationError, match="newer than this version"):
        await asyncio.to_thread(migrate, database_url)


def test_a_database_that_cannot_be_created_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        migrate(f"sqlite:///{tmp_path}/file/x.db")


async def test_a_database_that_cannot_be_opened_is_a_configuration_error(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/absent/x.db")
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        await database.require_current_schema()
    await database.close()


def test_the_ledgers_rows_have_the_tables_columns() -> None:
    assert set(CHARGE_COLUMNS) == {column.name for column in Charge.__table__.columns}  # type: ignore[attr-defined]
    assert [field.name for field in fields(ChargeRow)] == list(CHARGE_COLUMNS)
    assert set(EntryRow._fields) == {column.name for column in Entry.__table__.columns}  # type: ignore[attr-defined]


async def test_a_database_with_calls_can_be_downgraded_and_upgraded_again(database_url: str) -> None:
    """To the first schema, whose charges and entries stay what they are; and the ledger goes on with them."""
    database = Database(database_url)
    caller = await make_principal(database)
    ledger = Ledger(make_store(database_url), lease_seconds=60)
    ledger.start()
    await set_limit(ledger, user_quota(caller), 1_000)
    assert await call(ledger, caller) is None
    before = await rows(database)
    await asyncio.to_thread(command.downgrade, alembic_config(database_url), "0001")
    with pytest.raises(ConfigurationError, match="is at 0001"):
        await database.require_current_schema()
    assert await rows(database) == before
    await asyncio.to_thread(migrate, database_url)
    await database.require_current_schema()
    assert await rows(database) == before
    assert await call(ledger, caller) is None, "its keys were forgotten"
    assert await call(ledger, caller) == b"answer"
    await ledger.stop()
    report = await verify(database, now_ms=0)
    assert (report.problems, report.charges) == ([], 3)
    await database.close()


async def call(ledger: Ledger, caller: Principal) -> bytes | None:
    """A call with a key. Returns what is repeated."""
    async with ledger.reservation(caller, make_terms(), keyed_request=KeyedRequest("key", "a" * 64)) as made:
        made.set_usage(Usage(7, 30))
        made.store_response(lambda _: StoredResponse(200, "text/plain", b"answer"))
    return made.replayed.response.body if made.replayed is not None else None


async def rows(database: Database) -> list[tuple[object, ...]]:
    """Every charge and every entry, in the columns that they have had from the first.

    The source of a window's first entry is the window itself, whatever its form.
    """
    later = ("month", "price_cache_write", "key_id", "group_id", "tags", "conversation")
    columns = ", ".join(column for column in CHARGE_COLUMNS if column not in later)
    of_entries = ", ".join(column for column in EntryRow._fields if column not in ("tenant_id", "month", "source_id"))
    source = "CASE WHEN kind = 'open' THEN '-' ELSE source_id END"
    found: list[tuple[object, ...]] = []
    async with database.session() as session:
        connection = await session.connection()
        for query in (
            f"SELECT {columns} FROM charges ORDER BY id",
            f"SELECT {of_entries}, {source} FROM entries ORDER BY window_id, sequence",
        ):
            found += [tuple(row) for row in await connection.execute(sa.text(query))]
    return found
