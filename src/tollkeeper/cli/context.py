"""What a command works with: the settings, the database, a clock, and the actor's name."""

import os
import pwd
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from tollkeeper.administration.administrator import Administrator, commanding
from tollkeeper.audit_log.log import AuditLog
from tollkeeper.cli.command_settings import load_command_settings, require_sqlite_file
from tollkeeper.clock import Clock, SystemClock
from tollkeeper.database.engine import Database
from tollkeeper.database.errors import describe_error
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.errors import ConfigurationError
from tollkeeper.installation_secret import DATA_KEY
from tollkeeper.settings import Settings


@dataclass(frozen=True, slots=True)
class CommandContext:
    """The dependencies of a command, with the database open."""

    settings: Settings
    database: Database
    clock: Clock


@dataclass(frozen=True, slots=True)
class Administration:
    """What an administrative command works with: the administrator, in one transaction, the context, and the keys."""

    admin: Administrator
    context: CommandContext
    keys: DataKeys


@asynccontextmanager
async def open_administration(program: str = "cli") -> AsyncIterator[Administration]:
    """Open the database for one administrative act, which is committed and noted in the audit log at the end.

    Raises what `open_context` does; ConfigurationError for a missing or wrong data key.
    """
    async with open_context() as context:
        settings = context.settings
        keys = DataKeys(DATA_KEY.load(settings, settings.data_key), previous=settings.previous_data_key)
        await keys.load(context.database, context.clock)
        async with context.database.session() as session:
            admin = commanding(session, AuditLog(keys), actor_name(program), context.clock.now_ms())
            yield Administration(admin, context, keys)


@asynccontextmanager
async def open_context() -> AsyncIterator[CommandContext]:
    """Open the database that the environment names, and close it at the end.

    Raises ConfigurationError when the schema is another version's or the database reports an error,
    DatabaseUnavailable when the database does not respond.
    """
    settings = load_command_settings()
    require_sqlite_file(settings)
    database = Database(settings.database_url, prepared_statements=settings.prepared_statements)
    try:
        await database.require_current_schema()
        yield CommandContext(settings, database, SystemClock())
    except SQLAlchemyError as error:
        raise ConfigurationError(f"The database reported an error: {describe_error(error)}.") from None
    finally:
        await database.close()


def actor_name(program: str) -> str:
    """Returns the actor of ledger entries, as `cli:root`. The system's user counts, not the environment's $USER."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    return f"{program}:{user}"
