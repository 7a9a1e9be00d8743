"""Commands that a server runs in processes of their own end with it."""

import asyncio
import os
import signal
import socket
import sys
from contextlib import suppress

import psutil

from support.deadlines import TEST_DEADLINE_S

SERVER = """
import asyncio, sys
from tollkeeper.administration.commands import run_command
asyncio.run(run_command(("serve", "--port", sys.argv[2]), sys.argv[1]))
"""
"""Stands for a server that runs a command, here one that does not end by itself."""


async def test_a_command_ends_with_a_server_that_is_killed(sqlite_url: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, sqlite_url, str(port), start_new_session=True
    )
    try:
        async with asyncio.timeout(TEST_DEADLINE_S):
            while not await _listens(port):
                await asyncio.sleep(0.02)
            [command] = psutil.Process(server.pid).children()
            server.kill()
            while _is_running(command):
                await asyncio.sleep(0.02)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        await server.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


def _is_running(process: psutil.Process) -> bool:
    """One that has ended is a zombie until init looks at it."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
