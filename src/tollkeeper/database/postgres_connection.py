"""Connections to PostgreSQL: those of the ORM, and what both the ORM and the ledger need behind a connection pooler."""

from typing import Any

import asyncpg

TRANSACTION_SETTINGS = (
    " SET LOCAL jit = off; SET LOCAL lock_timeout = 2000; SET LOCAL idle_in_transaction_session_timeout = 5000;"
)
"""Of transactions on PostgreSQL, in ms. To compile one of their statements takes longer than to run it. A transaction
that waits for a lock fails before its caller gives up, and one whose process was stopped does not keep its locks.
"""


class PostgresConnection(asyncpg.Connection):  # type: ignore[misc]
    """A connection whose transactions have settings of their own: see TRANSACTION_SETTINGS. The next one has those of
    `begin_settings`, too.

    The settings are sent with BEGIN, in one round trip, and are local to the transaction: a connection pooler in
    transaction mode (pgbouncer) loses the settings of a session.
    """

    begin_settings = ""

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:
        if not query.startswith("BEGIN"):
            return str(await super().execute(query, *args, timeout=timeout))
        settings, self.begin_settings = self.begin_settings, ""
        try:
            return str(await super().execute(query + TRANSACTION_SETTINGS + settings, *args, timeout=timeout))
        except asyncpg.PostgresError:
            self.terminate()  # the transaction has begun, which the driver does not know
            raise


def orm_statements(*, prepared: bool) -> dict[str, Any]:
    """The arguments of the ORM's connections that decide whether their statements are prepared once, and kept.

    A pooler in transaction mode gives each transaction another connection of the server, which does not know what an
    earlier one has prepared. Without prepared statements, each statement is parsed where it runs, in its transaction.
    """
    if prepared:
        return {}
    return {
        **driver_statements(prepared=False),
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": str,
    }


def driver_statements(*, prepared: bool) -> dict[str, Any]:
    """As `orm_statements`, for the driver's own connections."""
    return {} if prepared else {"statement_cache_size": 0}
