"""Starts the process that parses a document, and reads its chunks."""

import asyncio
import contextlib
import json
import sys

from tollkeeper.child_process import kill
from tollkeeper.documents.parsing.formats import DocumentFormat, Unparseable

MAX_OUTPUT_BYTES = 128 * 1024 * 1024
"""What the process may write: 20 MiB of text with escapes, overlaps and quotes."""
MAX_SECONDS = 120.0
"""The process has 30 s of CPU time; on a busy machine that takes longer."""
CODE = "from tollkeeper.documents.parsing.child import main; main()"
FAILED = "The document takes too much time or memory to be parsed."


async def parse(kind: DocumentFormat, content: bytes) -> list[str]:
    """The chunks of a document. The process has no environment, so it knows no secret. Raises Unparseable."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-c",
        CODE,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={},
        start_new_session=True,
    )
    sending = asyncio.create_task(_send(child, kind, content))
    try:
        async with asyncio.timeout(MAX_SECONDS):
            output = await _receive(child)
            await sending
            await child.wait()
    except TimeoutError:
        raise Unparseable(FAILED) from None
    finally:
        sending.cancel()
        await kill(child)
    if child.returncode != 0:
        raise Unparseable(FAILED)
    return await asyncio.to_thread(_read, output)


async def _send(child: asyncio.subprocess.Process, kind: DocumentFormat, content: bytes) -> None:
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        child.stdin.write(kind.value.encode() + b"\n")
        child.stdin.write(content)
        await child.stdin.drain()
        child.stdin.close()
        await child.stdin.wait_closed()


async def _receive(child: asyncio.subprocess.Process) -> bytes:
    assert child.stdout is not None
    received = bytearray()
    while part := await child.stdout.read(64 * 1024):
        received += part
        if len(received) > MAX_OUTPUT_BYTES:
            raise Unparseable(FAILED)
    return bytes(received)


def _read(output: bytes) -> list[str]:
    lines = output.splitlines()
    end = json.loads(lines[-1]) if lines else {}
    if "error" in end:
        raise Unparseable(end["error"])
    if end.get("chunks") != len(lines) - 1:
        raise Unparseable(FAILED)
    if not end["chunks"]:
        raise Unparseable("The document has no text.")
    return [json.loads(line) for line in lines[:-1]]
