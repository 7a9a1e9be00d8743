"""Commands of the `tollkeeper` program that a server runs in processes of their own, at a low priority.

They use the processor for minutes: so they delay neither the event loop nor other threads.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tollkeeper.child_process import kill
from tollkeeper.settings.secret_files import SUFFIX

MAX_ERROR_LENGTH = 500
_DATABASE_URL = "TOLLKEEPER_DATABASE_URL"
_REPLACED = {name + suffix for name in (_DATABASE_URL, "DATABASE_URL") for suffix in ("", SUFFIX)}
_PROGRAM = """
import os, runpy, threading

def end_with_the_server():
    os.read(0, 1)  # until the server closes the pipe, also by its own end
    os._exit(1)

os.nice(10)
threading.Thread(target=end_with_the_server, daemon=True).start()
runpy.run_module("tollkeeper", run_name="__main__")
"""


class Ended(NamedTuple):
    """How a command has ended: its exit code, its output, and the last line of its errors."""

    code: int | None
    output: bytes
    error: str


async def run_command(
    arguments: Sequence[str], database_url: str, take_line: Callable[[bytes], bool] = lambda _: False
) -> Ended:
    """Run a command on this database; its other settings are those of the environment. A command that cannot be started
    has the exit code -1. It is killed if this is cancelled, and ends if this process does.

    `take_line` is called with each line of its errors, and returns whether that is no error but something of its own.
    """
    environment = {name: value for name, value in os.environ.items() if name.upper() not in _REPLACED}
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _PROGRAM,
            *arguments,
            env={**environment, _DATABASE_URL: database_url},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        return Ended(-1, b"", str(error.strerror))
    try:
        output, last_error = await asyncio.gather(_read_all(process.stdout), _last_line(process.stderr, take_line))
        await process.wait()
    except asyncio.CancelledError:
        await kill(process)
        raise
    code = process.returncode
    return Ended(code, output, last_error[:MAX_ERROR_LENGTH] or f"It ended with the exit code {code}.")


async def _read_all(stream: asyncio.StreamReader | None) -> bytes:
    assert stream is not None
    return await stream.read()


async def _last_line(stream: asyncio.StreamReader | None, take_line: Callable[[bytes], bool]) -> str:
    """The last line that `take_line` does not take, and that is not blank. A line that is longer than the stream's
    buffer is left out.
    """
    assert stream is not None
    last = b""
    while True:
        try:
            line = await stream.readuntil()
        except asyncio.IncompleteReadError as error:
            line = error.partial
            if not line:
                return last.decode(errors="replace").strip()
        except asyncio.LimitOverrunError as error:
            await stream.readexactly(error.consumed)
            continue
        if line.strip() and not take_line(line):
            last = line
