"""A launcher of `tollkeeper archive` that kills its own process with SIGKILL at one named point.

Run as `python -m journeys.support.archive_failpoints POINT OPTIONS…`: OPTIONS are those of the command.
"""

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from tollkeeper.cli import main
from tollkeeper.quota.archive import archiver, export, removal
from tollkeeper.quota.archive.carries import write_carries
from tollkeeper.quota.archive.files import ExportFolder
from tollkeeper.quota.archive.registry import Registry


def die(*_: Any, **__: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def dying_after(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> None:
        function(*arguments, **named)
        die()

    return call


def dying_after_await(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def call(*arguments: Any, **named: Any) -> None:
        await function(*arguments, **named)
        die()

    return call


def _die_when_one_table_is_removed() -> None:
    """On PostgreSQL its partition is dropped; on SQLite its rows are deleted."""
    retry = removal._retry

    async def call(*arguments: Any) -> None:
        await retry(*arguments)
        if any("DROP" in statement for statement in arguments[2]):
            die()

    removal._retry = call  # type: ignore[assignment]
    removal._delete = dying_after_await(removal._delete)  # type: ignore[assignment]


POINTS: dict[str, Callable[[], None]] = {
    "entered": lambda: setattr(Registry, "begin", dying_after_await(Registry.begin)),
    "exporting": lambda: setattr(export, "write_carries", dying_after_await(write_carries)),
    "files are complete": lambda: setattr(ExportFolder, "complete", dying_after(ExportFolder.complete)),
    "rows do not count": lambda: setattr(archiver, "remove", die),
    "one table is removed": _die_when_one_table_is_removed,
    "both are removed": lambda: setattr(Registry, "finish", die),
}
"""What an archive reaches, in this order."""


if __name__ == "__main__":
    POINTS[sys.argv[1]]()
    sys.argv[1:2] = ["archive"]
    main()
