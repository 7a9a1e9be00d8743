"""The statements that this process sends to PostgreSQL, one after the other. Each costs a call one round trip."""

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

SENDING = ("execute", "executemany", "fetch", "fetchrow", "fetchval")


def record_statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that are sent from now on."""
    statements: list[str] = []

    def noted(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def send(connection: object, statement: str, *values: object, **options: Any) -> Any:
            statements.append(statement)
            return await method(connection, statement, *values, **options)

        return send

    for name in SENDING:
        monkeypatch.setattr(asyncpg.Connection, name, noted(getattr(asyncpg.Connection, name)))
    return statements
