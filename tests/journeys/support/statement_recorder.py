"""A launcher of the real application that writes each statement that it sends to its database into a file, one a line.

Run as `python -m journeys.support.statement_recorder FILE`.
"""

import sqlite3
import sys
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import Any

import asyncpg
import uvicorn

from tollkeeper.bootstrap.application import make_app
from tollkeeper.settings import load_settings

SENDING = ("execute", "executemany", "fetch", "fetchrow", "fetchval", "prepare")


def record(file: Path) -> None:
    """Record the statements of all connections that are made from now on."""
    log = file.open("a", buffering=1)

    def note(statement: str) -> None:
        log.write(" ".join(statement.split()) + "\n")

    def noted(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @wraps(method)
        async def send(connection: object, statement: str, *values: object, **options: Any) -> Any:
            note(statement)
            return await method(connection, statement, *values, **options)

        return send

    for name in SENDING:
        setattr(asyncpg.Connection, name, noted(getattr(asyncpg.Connection, name)))
    connect = sqlite3.connect

    def connect_noted(*arguments: Any, **options: Any) -> Any:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(note)
        return connection

    vars(sqlite3)["connect"] = connect_noted


def main(file: Path) -> None:
    record(file)
    settings = load_settings()
    uvicorn.run(make_app(settings), host=settings.host, port=settings.port, log_config=None)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
