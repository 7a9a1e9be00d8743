"""PostgreSQL databases that tests use one after another. To create one costs the server more than to clean one.

Before a database is used again, all rows and sequences are as the migrations have left them. It is only used again
where its catalogs are, too: after a test that has changed the schema, a setting or statistics, another is created.
"""

import asyncio
import uuid
from typing import Any, NamedTuple

import asyncpg

from support.postgres_servers import SharedPostgres, execute, on_database

CATALOGS = (
    *("attrdef", "attribute", "class", "collation", "constraint", "default_acl", "description", "event_trigger"),
    *(
        "extension",
        "index",
        "inherits",
        "largeobject_metadata",
        "namespace",
        "operator",
        "policy",
        "proc",
        "publication",
    ),
    *("rewrite", "statistic", "statistic_ext", "subscription", "trigger", "type"),
)
"""A change of a row in one of these changes the number of its rows, or is the row's newest transaction."""
STATE_OF_CATALOGS = f"""
SELECT ARRAY[
    {", ".join(f"(SELECT (count(*), max(xmin::text::bigint))::text FROM pg_{name})" for name in CATALOGS)},
    (SELECT count(*)::text FROM pg_db_role_setting WHERE setdatabase = own.oid),
    (own.datdba, own.datallowconn, own.datconnlimit, own.datacl)::text
] FROM pg_database own WHERE datname = current_database()
"""
USED_TABLES = """
SELECT format('%I.%I', nspname, relname) AS name, pg_total_relation_size(pg_class.oid) AS bytes
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind = 'r' AND nspname !~ '^pg_' AND nspname <> 'information_schema' AND pg_relation_size(pg_class.oid) > 0
"""
"""Tables that have, or have had, a row: a file of theirs has a page."""
SEQUENCES = "SELECT format('%I.%I', schemaname, sequencename) AS name, last_value, start_value FROM pg_sequences"
END_CONNECTIONS = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
MOST_BYTES = 16_000_000
"""Of the used tables. Deleted rows keep their space."""


class Template(NamedTuple):
    """What the migrations have left in a database."""

    catalogs: list[str]
    rows: dict[str, str]
    """As JSON, by table."""
    sequences: str
    """A statement that sets them."""


class ReusedDatabases:
    """The databases of one worker on one server. Raises what asyncpg raises."""

    def __init__(self, server: SharedPostgres, *, drops: bool) -> None:
        """With `drops` nothing is left on the server in the end; else its data are deleted as a whole."""
        self._server = server
        self._drops = drops
        self._free: list[str] = []
        self._template: Template | None = None

    def take(self) -> str:
        """The URL of a migrated, empty database, whose former processes have ended."""
        return asyncio.run(self._take())

    def give_back(self, url: str) -> None:
        """The database may be used again, once the test has ended."""
        self._free.append(url)

    def close(self) -> None:
        """Drop the databases that were given back."""
        for url in self._free:
            asyncio.run(self._drop(url))

    async def _take(self) -> str:
        while self._free:
            url = self._free.pop()
            if await self._is_cleaned(url):
                return url
            await self._drop(url)
        name = f"test_{uuid.uuid4().hex}"
        await execute(self._server.url, f'CREATE DATABASE "{name}" TEMPLATE "{self._server.template}"')
        url = on_database(self._server.url, name)
        if self._template is None:
            connection = await asyncpg.connect(url)
            try:
                self._template = await _describe(connection)
            finally:
                await connection.close()
        return url

    async def _is_cleaned(self, url: str) -> bool:
        """Make a database as the migrations left it. Returns False where that is not possible."""
        assert self._template is not None, "it is read from the first database"
        try:
            connection = await asyncpg.connect(url)
        except asyncpg.PostgresError:  # the test has dropped it, or forbids connections
            return False
        try:
            await connection.execute(END_CONNECTIONS)
            if await connection.fetchval(STATE_OF_CATALOGS) != self._template.catalogs:
                return False
            used = await connection.fetch(USED_TABLES)
            if sum(table["bytes"] for table in used) > MOST_BYTES:
                return False
            await _restore(connection, self._template, [table["name"] for table in used])
        finally:
            await connection.close()
        return True

    async def _drop(self, url: str) -> None:
        if self._drops:
            name = url.partition("?")[0].rpartition("/")[2]
            await execute(self._server.url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


async def _describe(connection: "asyncpg.Connection[Any]") -> Template:
    tables = [table["name"] for table in await connection.fetch(USED_TABLES)]
    rows = {name: await connection.fetchval(f"SELECT json_agg(t)::text FROM {name} t") for name in tables}
    setters = [
        f"setval('{name}', {last or start}, {last is not None})"
        for name, last, start in await connection.fetch(SEQUENCES)
    ]
    return Template(
        await connection.fetchval(STATE_OF_CATALOGS),
        {name: content for name, content in rows.items() if content is not None},
        f"SELECT {', '.join(setters)}",
    )


async def _restore(connection: "asyncpg.Connection[Any]", template: Template, used: list[str]) -> None:
    """Restore rows and sequences in one round trip. No trigger runs and no foreign key is checked."""
    deletes = [f"DELETE FROM {name}" for name in used]
    inserts = [
        f"INSERT INTO {name} SELECT * FROM json_populate_recordset(NULL::{name}, {_literal(content)})"
        for name, content in template.rows.items()
    ]
    first = "SET LOCAL session_replication_role = replica"
    await connection.execute(";".join(["BEGIN", first, *deletes, *inserts, template.sequences, "COMMIT"]))


def _literal(content: str) -> str:
    return "'" + content.replace("'", "''") + "'"
