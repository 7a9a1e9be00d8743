"""What a server checks of its database before it serves."""

import structlog

from tollkeeper.database.engine import Database

log = structlog.get_logger("tollkeeper.database")


async def check_schema(database: Database, *, prepared_statements: bool) -> None:
    """Raises ConfigurationError, SchemaMissing. Logs why row-level security is not used, if it is not, and whether
    prepared statements may fail.
    """
    await database.require_current_schema()
    if (problem := await database.enable_row_security()) is not None:
        log.warning("database.row_security_unused", reason=problem)
    if prepared_statements and await database.is_pooled():
        log.warning("database.pooled", reason="Set TOLLKEEPER_PREPARED_STATEMENTS=False, or let the pooler keep them.")
