"""The install that a command works on: its settings, its database, a ledger of its own, and who is at the keys."""

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
from tollkeeper.db import Database
from tollkeeper.errors import ConfigurationError, LedgerUnavailable
from tollkeeper.quota.ledger import Ledger
from tollkeeper.settings import Settings, load_settings


@dataclass(frozen=True, slots=True)
class CommandContext:
    """What `opened` opens."""

    settings: Settings
    database: Database

    @asynccontextmanager
    async def ledger(self) -> AsyncIterator[Ledger]:
        """A running ledger, beside those of the servers. Raises LedgerUnavailable in words for this keyboard."""
        ledger = make_ledger(self.settings)
        ledger.start()
        try:
            yield ledger
        except LedgerUnavailable:
            raise LedgerUnavailable(
                "The ledger did not answer in time. Look whether the change was made before you try it again."
            ) from None
        finally:
            await ledger.stop()


@asynccontextmanager
async def opened() -> AsyncIterator[CommandContext]:
    """The install that the environment names.

    Raises ConfigurationError when its schema is not ours or the database refuses, LedgerUnavailable when it is gone.
    """
    _say_only_what_is_asked()
    settings = load_settings()
    if (path := settings.sqlite_path) is not None and not path.is_file():
        raise ConfigurationError(f"There is no database at {path}. Create it with: tollkeeper migrate")
    database = Database(settings.database_url)
    try:
        await database.require_current_schema()
        yield CommandContext(settings, database)
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise ConfigurationError(f"The database refused: {reason}.") from None
    except LedgerUnavailable as error:
        if error.detail != LedgerUnavailable.sentence:
            raise
        raise LedgerUnavailable("The database cannot be reached.") from None
    finally:
        await database.close()


def actor(program: str) -> str:
    """Who is at the keys, as the entries name them: `cli:root`. The name is the system's, not the environment's."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    return f"{program}:{name}"


def _say_only_what_is_asked() -> None:
    """A command's output is its answer: the log of its ledger would only stand between."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
