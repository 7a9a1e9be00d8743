"""What a log line must not contain: secrets in texts, and values from the database in the text of its errors."""

import re
import traceback
from collections.abc import Iterator
from itertools import islice

from sqlalchemy.exc import DBAPIError, EmulatedDBAPIException

from tollkeeper.database.errors import describe_error, is_from_asyncpg

MAX_CHAINED_ERRORS = 10
HIDDEN = "***"

CREDENTIAL = re.compile(r"tk-[\w-]+|(?<![A-Za-z0-9])sk-[\w-]+|eyJ[\w.-]+")
"""An API key of ours or of a provider, or a JWT."""
MAX_EXCERPT = 200
"""Characters of another server's text in a log line."""
_LONG_TOKEN = re.compile(r"[\w*+/=-]{20,}")
"""What may be a credential in the text of a server whose keys have an unknown form."""
_PASSWORD_IN_URL = re.compile(r"(?<=://)[^\s:/@]{0,256}:\S{0,256}@")


def redact(text: str) -> str:
    """Returns the text without API keys, JWTs, and user names and passwords in URLs."""
    return _PASSWORD_IN_URL.sub(f"{HIDDEN}@", CREDENTIAL.sub(HIDDEN, text))


def excerpt(text: str) -> str:
    """Returns the begin of another server's text, on one line, without credentials and without any long token."""
    line = _LONG_TOKEN.sub(HIDDEN, redact(" ".join(text.split())))
    return "".join(character for character in line if character.isprintable())[:MAX_EXCERPT]


def format_exception(error: BaseException) -> str:
    """Returns the traceback of an error and of those that led to it, the first cause first.

    It has no value from the database: not the DETAIL of an error, and no parameter of a statement. It may contain
    other secrets: pass it to `redact`.
    """
    return "\n".join(map(_format_one, reversed(list(islice(_chain(error), MAX_CHAINED_ERRORS)))))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, its cause, and so on."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _format_one(error: BaseException) -> str:
    frames = "".join(traceback.format_tb(error.__traceback__))
    text = f"Traceback (most recent call last):\n{frames}{type(error).__qualname__}: {_message(error)}"
    if isinstance(error, BaseExceptionGroup):
        text = "\n".join([text, *map(format_exception, error.exceptions[:MAX_CHAINED_ERRORS])])
    return text


def _message(error: BaseException) -> str:
    if isinstance(error, DBAPIError):
        return f"{describe_error(error)} [SQL: {error.statement}]"
    if isinstance(error, EmulatedDBAPIException) or is_from_asyncpg(error):
        return describe_error(error)
    try:
        return str(error)
    except Exception:
        return "its message cannot be read"
