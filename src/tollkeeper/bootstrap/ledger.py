"""Chooses the ledger's store for the settings. Commands that change the ledger load this without the server."""

from collections.abc import Callable

from tollkeeper.clock import SystemClock
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.stores.base import Store
from tollkeeper.quota.stores.sqlite.store import SqliteStore
from tollkeeper.settings import Settings

HOUR_MS = 3_600_000


def make_store(settings: Settings) -> Store:
    """The ledger's store for the database that the settings name."""
    key_lifetime_ms = settings.stored_response_hours * HOUR_MS
    if settings.sqlite_path is not None:
        return SqliteStore(settings.sqlite_path, SystemClock(), key_lifetime_ms=key_lifetime_ms)
    from tollkeeper.quota.stores.postgres.store import PostgresStore  # a process on SQLite needs none of asyncpg

    return PostgresStore(
        settings.database_url,
        prepared_statements=settings.prepared_statements,
        key_lifetime_ms=key_lifetime_ms,
    )


def make_ledger(
    settings: Settings, store: Store | None = None, on_batch: Callable[[int, float], None] = lambda *_: None
) -> Ledger:
    """A ledger for this process."""
    return Ledger(
        store or make_store(settings),
        lease_seconds=settings.lease_seconds,
        queue_limit=settings.ledger_queue,
        on_batch=on_batch,
    )
