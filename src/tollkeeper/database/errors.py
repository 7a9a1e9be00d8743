"""What may be shown and logged of a database's error: no value of a row, and no parameter of a statement."""

import sys

from sqlalchemy.exc import DBAPIError, EmulatedDBAPIException

_DATA_EXCEPTIONS = "22"
"""The class of the errors (SQLSTATE) whose messages quote the value at fault, such as `invalid input syntax`."""

_OUTAGES = ("08", "53", "57", "58")
"""The classes of PostgreSQL's errors that are not the statement's: connection, resources, operators, system. A server
that starts or stops is in 57.
"""
_OUTAGE_WORDS = (
    "locked",
    "lock timeout",
    "deadlock",
    "unable to open",
    "disk",
    "readonly",
    "read-only",
    "connect",
    "too many clients",
    "shutting down",
)
"""SQLite's outages, and those without a code, are known by their text."""


def driver_error(error: BaseException) -> BaseException:
    """Returns the driver's error that SQLAlchemy's error wraps; any other error as it is."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    return error.driver_exception if isinstance(error, EmulatedDBAPIException) else error


def describe_error(error: BaseException) -> str:
    """Returns the driver's message in one line, without DETAIL; or the error's class, if the message quotes a value."""
    cause = driver_error(error)
    lines = str(cause).splitlines()
    return lines[0] if lines and not _quotes_a_value(cause) else type(cause).__name__


def is_outage(error: DBAPIError) -> bool:
    """Whether the database is at fault, not the statement."""
    if error.connection_invalidated or str(getattr(driver_error(error), "sqlstate", None) or "")[:2] in _OUTAGES:
        return True
    reason = str(error.orig).lower()
    return any(word in reason for word in _OUTAGE_WORDS)


def is_from_asyncpg(error: BaseException) -> bool:
    """Whether asyncpg raised the error. It is not loaded here: a process on SQLite does not need it."""
    asyncpg = sys.modules.get("asyncpg")
    return asyncpg is not None and isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError)


def _quotes_a_value(error: BaseException) -> bool:
    if not is_from_asyncpg(error):
        return False
    is_wrong_argument = isinstance(error, ValueError)
    return is_wrong_argument or str(getattr(error, "sqlstate", None) or "").startswith(_DATA_EXCEPTIONS)
