"""The body of a response: of known length, in chunks, or up to the end of the connection (RFC 9112, sections 6 and 7).

`excess` is set if there were bytes after the end of the body. Then the connection must not be used again.
"""

import re
from typing import Protocol

from tollkeeper.providers.http.base import MalformedResponse
from tollkeeper.providers.http.response_head import ResponseHead

MAX_LINE_BYTES = 1024
"""The longest line of a chunk's size, with its extensions."""
MAX_TRAILER_BYTES = 16 * 1024
"""Trailers are skipped."""

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(;[\t\x20-\x7e\x80-\xff]*)?[ \t]*")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")
_CRLF = b"\r\n"


class Body(Protocol):
    """Decodes a body from blocks of any size."""

    complete: bool
    excess: bool

    def feed(self, data: bytes) -> bytes:
        """The part of the body that is in `data`. Raises MalformedResponse."""
        ...


class SizedBody:
    """A body with Content-Length."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.complete = length == 0
        self.excess = False

    def feed(self, data: bytes) -> bytes:
        if len(data) < self._left:
            self._left -= len(data)
            return data
        self.complete = True
        self.excess = len(data) > self._left
        block = data[: self._left]
        self._left = 0
        return block


class UnsizedBody:
    """A body that ends with the connection."""

    complete = False
    excess = False

    def feed(self, data: bytes) -> bytes:
        return data


class ChunkedBody:
    """A body with Transfer-Encoding: chunked. Extensions and trailers are skipped."""

    def __init__(self) -> None:
        self.complete = False
        self.excess = False
        self._left = 0
        """The bytes of the current chunk that are missing."""
        self._in_chunk = False
        """Whether a chunk, or the line end after it, is being read."""
        self._line = b""
        """The begin of a line whose end was not received yet."""
        self._trailer_bytes: int | None = None
        """The size of the trailers so far; None before the last chunk."""

    def feed(self, data: bytes) -> bytes:
        if self._line:
            data = self._line + data
            self._line = b""
        pieces = []
        position = 0
        while position < len(data) and not self.complete:
            if self._left:
                piece = data[position : position + self._left]
                pieces.append(piece)
                position += len(piece)
                self._left -= len(piece)
                continue
            end = data.find(_CRLF, position, position + MAX_LINE_BYTES)
            if end < 0:
                self._keep_line(data[position:])
                break
            self._read_line(data, position, end)
            position = end + len(_CRLF)
        self.excess = self.complete and position < len(data)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _keep_line(self, line: bytes) -> None:
        if len(line) >= MAX_LINE_BYTES or b"\n" in line or (self._in_chunk and line != b"\r"):
            raise MalformedResponse("a line of the chunked body does not end where it should")
        self._line = line

    def _read_line(self, data: bytes, begin: int, end: int) -> None:
        """Read the size of a chunk, the line end after a chunk, or a trailer."""
        if self._in_chunk:
            if begin != end:
                raise MalformedResponse("a chunk does not end where it should")
            self._in_chunk = False
        elif self._trailer_bytes is None:
            size = _SIZE.fullmatch(data, begin, end)
            if size is None:
                raise MalformedResponse("the size of a chunk is no number")
            self._left = int(size[1], 16)
            self._in_chunk = self._left > 0
            if not self._in_chunk:
                self._trailer_bytes = 0
        elif begin == end:
            self.complete = True
        else:
            self._trailer_bytes += end - begin + len(_CRLF)
            if self._trailer_bytes > MAX_TRAILER_BYTES or _TRAILER.fullmatch(data, begin, end) is None:
                raise MalformedResponse("the trailers are no headers, or too large")


def body_of(head: ResponseHead) -> Body:
    """What decodes the body after this head."""
    if head.is_chunked:
        return ChunkedBody()
    return UnsizedBody() if head.length is None else SizedBody(head.length)
