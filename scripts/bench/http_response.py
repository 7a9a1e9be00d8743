"""Incremental parser of one HTTP/1.1 response, with Content-Length or chunked transfer encoding."""

import re

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)
_CHUNKED_LENGTH = -1
"""In place of a length: the body is chunked."""


class HttpResponse:
    """`reads` counts the calls of `feed`."""

    def __init__(self) -> None:
        self.received = b""
        self.reads = 0
        self._body_start = 0
        self._length = 0

    def feed(self, data: bytes) -> bool:
        """Add received bytes. Returns whether the response is complete, or can no longer become valid."""
        self.received += data
        self.reads += 1
        if not self._body_start and not self._parse_head():
            return False
        if self._length == _CHUNKED_LENGTH:
            return self.received.endswith(b"\r\n0\r\n\r\n")
        return len(self.received) >= self._body_start + self._length

    @property
    def body_started(self) -> bool:
        return 0 < self._body_start < len(self.received)

    @property
    def is_valid(self) -> bool:
        """Whether the status is 200 and the body has exactly the announced length."""
        if not self.received.startswith(b"HTTP/1.1 200 "):
            return False
        if self._length == _CHUNKED_LENGTH:
            return self._join_chunks() is not None
        return len(self.received) == self._body_start + self._length

    @property
    def body(self) -> bytes:
        """The body of a valid response."""
        if self._length == _CHUNKED_LENGTH:
            return self._join_chunks() or b""
        return self.received[self._body_start :]

    def _parse_head(self) -> bool:
        head_end = self.received.find(b"\r\n\r\n")
        if head_end < 0:
            return False
        self._body_start = head_end + 4
        if _CHUNKED.search(self.received, 0, head_end + 2):
            self._length = _CHUNKED_LENGTH
        elif length := _CONTENT_LENGTH.search(self.received, 0, head_end + 2):
            self._length = int(length[1])
        return True

    def _join_chunks(self) -> bytes | None:
        """Returns the body without its chunk framing, or None if the framing is invalid."""
        body: list[bytes] = []
        position = self._body_start
        while True:
            size_end = self.received.find(b"\r\n", position)
            try:
                size = int(self.received[position:size_end], 16)
            except ValueError:
                return None
            start, end = size_end + 2, size_end + 2 + size
            if self.received[end : end + 2] != b"\r\n":
                return None
            position = end + 2
            if size == 0:
                return b"".join(body) if position == len(self.received) else None
            body.append(self.received[start:end])
