"""What the upstream does instead of an answer, on any wire. Each returns False when the connection is over."""

import gzip
from functools import cache

from journeys.upstream.connection import Line
from journeys.upstream.script import SECRET

_CHUNK = b"x" * 65_536
_LARGE_BYTES = 100 * 1024 * 1024
_ENDLESS_BYTES = 400 * 1024 * 1024
"""An endless body ends here, so that nothing runs away if nobody hangs up."""


async def _reset(line: Line, media_type: str, good: bytes) -> bool:
    """A TCP reset instead of an answer."""
    line.reset()
    return False


async def _close(line: Line, media_type: str, good: bytes) -> bool:
    """The connection closed in good order instead of an answer."""
    return False


async def _hang(line: Line, media_type: str, good: bytes) -> bool:
    """Nothing, until the other side is gone."""
    await line.hang()
    return False


async def _truncated(line: Line, media_type: str, good: bytes) -> bool:
    """Half of what Content-Length promises."""
    await line.head(200, {"Content-Type": media_type, "Content-Length": "400"})
    await line.write(b'{"id": "chatcmpl')
    return False


async def _stalled(line: Line, media_type: str, good: bytes) -> bool:
    """Half of an answer, and then nothing."""
    await _truncated(line, media_type, good)
    return await _hang(line, media_type, good)


async def _not_http(line: Line, media_type: str, good: bytes) -> bool:
    """Bytes that are no HTTP at all."""
    await line.write(b"\x00\x01\x02 " + SECRET.encode() + b" this is not HTTP\r\n\r\n")
    return False


async def _large(line: Line, media_type: str, good: bytes) -> bool:
    """A body of 100 MB without a line end, announced."""
    await line.head(200, {"Content-Type": media_type, "Content-Length": str(_LARGE_BYTES)})
    for _ in range(_LARGE_BYTES // len(_CHUNK)):
        await line.write(_CHUNK)
    return True


async def _endless(line: Line, media_type: str, good: bytes) -> bool:
    """A chunked body without an end."""
    await line.head(200, {"Content-Type": media_type, "Transfer-Encoding": "chunked"})
    for _ in range(_ENDLESS_BYTES // len(_CHUNK)):
        await line.write(b"%x\r\n%b\r\n" % (len(_CHUNK), _CHUNK))
    return False


async def _gzip_bomb(line: Line, media_type: str, good: bytes) -> bool:
    """50 KB that unpack to 50 MB."""
    await line.answer(200, {"Content-Type": media_type, "Content-Encoding": "gzip"}, _bomb())
    return True


@cache
def _bomb() -> bytes:
    """Packing it takes longer than all the rest."""
    return gzip.compress(b" " * 50_000_000, 9)


async def _gzip(line: Line, media_type: str, good: bytes) -> bool:
    """A good answer, packed, though nobody said that they can unpack it."""
    await line.answer(200, {"Content-Type": media_type, "Content-Encoding": "gzip"}, gzip.compress(good))
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
