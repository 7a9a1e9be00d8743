"""Connections to PostgreSQL: the settings of the ledger's transactions, and the errors that count as outages."""

from typing import TypeAlias

import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

CONNECT_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 10.0
BEGIN = (
    "BEGIN; SET LOCAL lock_timeout = {lock_timeout_ms}; SET LOCAL statement_timeout = 5000;"
    " SET LOCAL idle_in_transaction_session_timeout = 2000; SET LOCAL synchronous_commit = on;"
    " SET LOCAL jit = off; SET LOCAL enable_seqscan = off"
)
"""Opens a transaction with its settings, in one round trip. Timeouts are in milliseconds.

A process that stops in mid-transaction keeps its locks for `idle_in_transaction_session_timeout`.

The settings are local because a connection pool in transaction mode loses those of the session. Plans are cached while
the tables are small and must still be good when the tables are large, so sequential scans are off. Each plan that needs
one (`policy` has a single row and no index) then counts as very costly, and PostgreSQL compiles costly plans: 60 ms a
call with its default settings. So JIT is off, too.
"""
OUTAGES = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.UndefinedTableError,
)
"""The errors of a database that is down, overloaded or not set up. Any other error is a defect of the batch."""
LOCKED = (asyncpg.LockNotAvailableError, asyncpg.TransactionRollbackError)
"""The errors of a batch that could not get its locks: none in time, or a deadlock with another session."""
NOW_MS = "coalesce($1::bigint, (extract(epoch FROM clock_timestamp()) * 1000)::bigint)"
"""The time in SQL: the injected one or, if that is NULL, the database's."""
