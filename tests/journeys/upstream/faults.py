"""Faults of the upstream in place of an answer, on any wire. Each returns False when the connection has ended."""

import gzip
from functools import cache

from journeys.upstream.connection import Connection
from journeys.upstream.script import SECRET

_CHUNK = b"x" * 65_536
_LARGE_BYTES = 100 * 1024 * 1024
_ENDLESS_BYTES = 400 * 1024 * 1024
"""The end of an endless body, for the case that the client never disconnects."""


async def _reset(connection: Connection, media_type: str, good: bytes) -> bool:
    """A TCP reset instead of an answer."""
    connection.reset()
    return False


async def _close(connection: Connection, media_type: str, good: bytes) -> bool:
    """A properly closed connection instead of an answer."""
    return False


async def _hang(connection: Connection, media_type: str, good: bytes) -> bool:
    """Nothing until the client disconnects."""
    await connection.hang()
    return False


async def _truncated(connection: Connection, media_type: str, good: bytes) -> bool:
    """Half of the body that Content-Length announces."""
    await connection.head(200, {"Content-Type": media_type, "Content-Length": "400"})
    await connection.write(b'{"id": "chatcmpl')
    return False


async def _stalled(connection: Connection, media_type: str, good: bytes) -> bool:
    """A part of an answer, and then nothing until the client disconnects."""
    await _truncated(connection, media_type, good)
    return await _hang(connection, media_type, good)


async def _not_http(connection: Connection, media_type: str, good: bytes) -> bool:
    """Bytes that are not HTTP."""
    await connection.write(b"\x00\x01\x02 " + SECRET.encode() + b" this is not HTTP\r\n\r\n")
    return False


async def _large(connection: Connection, media_type: str, good: bytes) -> bool:
    """A body of 100 MB without a line end, with Content-Length."""
    await connection.head(200, {"Content-Type": media_type, "Content-Length": str(_LARGE_BYTES)})
    for _ in range(_LARGE_BYTES // len(_CHUNK)):
        await connection.write(_CHUNK)
    return True


async def _endless(connection: Connection, media_type: str, good: bytes) -> bool:
    """A chunked body without an end."""
    await connection.head(200, {"Content-Type": media_type, "Transfer-Encoding": "chunked"})
    for _ in range(_ENDLESS_BYTES // len(_CHUNK)):
        await connection.write(b"%x\r\n%b\r\n" % (len(_CHUNK), _CHUNK))
    return False


async def _gzip_bomb(connection: Connection, media_type: str, good: bytes) -> bool:
    """50 KB that decompress to 50 MB."""
    await connection.answer(200, {"Content-Type": media_type, "Content-Encoding": "gzip"}, _bomb())
    return True


@cache
def _bomb() -> bytes:
    """Cached, because compressing is slow."""
    return gzip.compress(b" " * 50_000_000, 9)


async def _gzip(connection: Connection, media_type: str, good: bytes) -> bool:
    """A compressed answer, although the request did not accept compression."""
    await connection.answer(200, {"Content-Type": media_type, "Content-Encoding": "gzip"}, gzip.compress(good))
    return True


FAULTS = {
    "reset": _reset,
    "close": _close,
    "hang": _hang,
    "truncated": _truncated,
    "stalled": _stalled,
    "not_http": _not_http,
    "large": _large,
    "endless": _endless,
    "gzip_bomb": _gzip_bomb,
    "gzip": _gzip,
}
