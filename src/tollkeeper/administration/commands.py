"""Commands of the `tollkeeper` program that a server runs in processes of their own, at a low priority.

They use the processor for minutes: so they delay neither the event loop nor other threads.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from tollkeeper.child_process import kill
from tollkeeper.settings.secret_files import SUFFIX

MAX_ERROR_LENGTH = 500
_DATABASE_URL = "TOLLKEEPER_DATABASE_URL"
_REPLACED = {name + suffix for name in (_DATABASE_URL, "DATABASE_URL") for suffix in ("", SUFFIX)}
_PROGRAM = "import os, runpy; os.nice(10); runpy.run_module('tollkeeper', run_name='__main__')"


class Ended(NamedTuple):
    """How a command has ended: its exit code, its output, and the last line of its errors."""

    code: int | None
    output: bytes
    error: str


async def run_command(arguments: Sequence[str], database_url: str) -> Ended:
    """Run a command on this database; its other settings are those of the environment. A command that cannot be started
    has the exit code -1. It is killed if this is cancelled.
    """
    environment = {name: value for name, value in os.environ.items() if name.upper() not in _REPLACED}
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _PROGRAM,
            *arguments,
            env={**environment, _DATABASE_URL: database_url},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        return Ended(-1, b"", str(error.strerror))
    try:
        output, errors = await process.communicate()
    except asyncio.CancelledError:
        await kill(process)
        raise
    code = process.returncode
    lines = errors.decode(errors="replace").strip().splitlines() or [f"It ended with the exit code {code}."]
    return Ended(code, output, lines[-1][:MAX_ERROR_LENGTH])
