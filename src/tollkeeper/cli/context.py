"""What a command works with: the settings, the database, a clock, a ledger of its own, and the actor's name."""

import logging
import os
import pwd
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import SQLAlchemyError

from tollkeeper.bootstrap import make_ledger
from tollkeeper.cli.output import print_line
from tollkeeper.clock import Clock, SystemClock
from tollkeeper.database_errors import describe_error
from tollkeeper.db import Database
from tollkeeper.errors import ConfigurationError, LedgerUnavailable
from tollkeeper.quota.ledger import Ledger
from tollkeeper.settings import Settings, load_settings, setting_warnings


@dataclass(frozen=True, slots=True)
class CommandContext:
    """The dependencies of a command, with the database open."""

    settings: Settings
    database: Database
    clock: Clock

    @asynccontextmanager
    async def ledger(self) -> AsyncIterator[Ledger]:
        """Run a ledger in this process, beside the ledgers of running servers. Raises LedgerUnavailable."""
        ledger = make_ledger(self.settings)
        ledger.start()
        try:
            yield ledger
        except LedgerUnavailable:
            raise LedgerUnavailable(
                "The ledger did not respond in time. Check whether the change was made before you retry."
            ) from None
        finally:
            await ledger.stop()


@asynccontextmanager
async def open_context() -> AsyncIterator[CommandContext]:
    """Open the database that the environment names, and close it at the end.

    Raises ConfigurationError when the schema is another version's or the database reports an error,
    DatabaseUnavailable when the database does not respond.
    """
    _silence_logs()
    settings = load_command_settings()
    require_sqlite_file(settings)
    database = Database(settings.database_url)
    try:
        await database.require_current_schema()
        yield CommandContext(settings, database, SystemClock())
    except SQLAlchemyError as error:
        raise ConfigurationError(f"The database reported an error: {describe_error(error)}.") from None
    finally:
        await database.close()


def load_command_settings(**overrides: object) -> Settings:
    """Returns the settings, and warns on standard error of variables that have no effect. Raises ConfigurationError."""
    settings = load_settings(**overrides)
    for warning in setting_warnings(settings):
        print_line(f"Warning: {warning}", error=True)
    return settings


def require_sqlite_file(settings: Settings) -> None:
    """Raise ConfigurationError if the settings name an SQLite database that does not exist."""
    if (path := settings.sqlite_path) is not None and not path.is_file():
        raise ConfigurationError(
            f"No database at {path}. Create it with: tollkeeper migrate. Or set TOLLKEEPER_DATABASE_URL."
        )


def actor_name(program: str) -> str:
    """Returns the actor of ledger entries, as `cli:root`. The system's user counts, not the environment's $USER."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    return f"{program}:{user}"


def _silence_logs() -> None:
    """Log only critical errors: the ledger's log lines would mix with the command's output."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
