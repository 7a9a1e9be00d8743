"""Ends a child process."""

import asyncio

READ_BYTES = 64 * 1024


async def kill(process: asyncio.subprocess.Process) -> None:
    """Kill the process, unless it has ended, and wait for its end. Its output is lost.

    `wait` returns once the pipes are closed, and one that is not read is never closed (CPython's issue 119710). So what
    the process has written is read first.
    """
    if process.returncode is None:
        process.kill()
    for stream in (process.stdout, process.stderr):
        while stream is not None and await stream.read(READ_BYTES):
            pass
    await process.wait()
