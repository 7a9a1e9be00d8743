"""The table of the optional index of vectors, which needs PostgreSQL's extension pgvector.

`tollkeeper migrate` creates it; it is no migration, because the extension can be installed later. Facts about pgvector
(limits, expression indexes, iterative scans) are those of the README of its version 0.8.
"""

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from tollkeeper.database import row_security

TABLE = "document_index"
MAX_VECTOR_DIMENSIONS, MAX_DIMENSIONS = 2_000, 4_000
"""HNSW indexes `vector` up to the first number of dimensions, and `halfvec` up to the second."""
_SETTING = "(SELECT NULLIF(current_setting('tollkeeper.tenant', true), '')::integer)"
_IS_VISIBLE = f"tenant_id = {_SETTING} OR {_SETTING} = -1"
_STATEMENTS = (
    f"CREATE TABLE IF NOT EXISTS {TABLE} (tenant_id integer NOT NULL, document_id varchar(40) NOT NULL,"
    " first integer NOT NULL, number integer NOT NULL, owner_id integer NOT NULL, model varchar(200) NOT NULL,"
    " dimensions integer NOT NULL, embedding vector NOT NULL, PRIMARY KEY (tenant_id, document_id, number),"
    " FOREIGN KEY (tenant_id, document_id, first) REFERENCES document_vectors (tenant_id, document_id, first)"
    " ON DELETE CASCADE)",
    f"CREATE INDEX IF NOT EXISTS {TABLE}_segments ON {TABLE} (tenant_id, document_id, first)",
    f"ALTER TABLE {TABLE} ENABLE ROW LEVEL SECURITY",
    f"DROP POLICY IF EXISTS of_tenant ON {TABLE}",
    f"CREATE POLICY of_tenant ON {TABLE} USING ({_IS_VISIBLE}) WITH CHECK ({_IS_VISIBLE})",
)


def exists(connection: Connection) -> bool:
    """Whether the index of vectors can be used."""
    if connection.dialect.name != "postgresql":
        return False
    return connection.execute(text("SELECT to_regclass(:name) IS NOT NULL"), {"name": TABLE}).scalar_one() is True


def set_up(connection: Connection) -> str | None:
    """Create the extension and the table, as far as this connection may. Returns why there is none; None if there is.

    What is there already stays.
    """
    try:
        with connection.begin_nested():
            connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS vector")
    except DBAPIError:
        return (
            "PostgreSQL has no extension named vector, or the database's user may not create it. Install pgvector, and"
            " let an administrator of PostgreSQL run: CREATE EXTENSION vector; then run: tollkeeper migrate"
        )
    for statement in _STATEMENTS:
        connection.exec_driver_sql(statement)
    security = row_security.find(connection)
    if security is not None and security.problem is None:
        connection.exec_driver_sql(f'GRANT SELECT ON {TABLE} TO "{security.role}"')
    return None


def type_of(dimensions: int) -> str:
    """The type by which vectors of so many dimensions are indexed."""
    return f"vector({dimensions})" if dimensions <= MAX_VECTOR_DIMENSIONS else f"halfvec({dimensions})"


def create_index(connection: Connection, dimensions: int) -> None:
    """Create the index for vectors of so many dimensions, unless it exists."""
    name = f"{TABLE}_hnsw_{dimensions}"
    if not connection.execute(text("SELECT to_regclass(:name) IS NULL"), {"name": name}).scalar_one():
        return
    kind = "vector" if dimensions <= MAX_VECTOR_DIMENSIONS else "halfvec"
    connection.exec_driver_sql(
        f"CREATE INDEX IF NOT EXISTS {name} ON {TABLE} USING hnsw"
        f" ((embedding::{type_of(dimensions)}) {kind}_cosine_ops) WHERE dimensions = {dimensions}"
    )
