"""One HTTP/1.1 reply as it comes in, its length announced or its body in chunks."""

import re

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)
_OPEN = -1
"""In place of a length: the body comes in chunks."""


class Reply:
    """Fed with what arrives. `begun`: some of the body is there; `arrivals`: how often something came."""

    def __init__(self) -> None:
        self.received = b""
        self.arrivals = 0
        self._body_at = 0
        self._length = 0

    def feed(self, data: bytes) -> bool:
        """Whether it is whole now, or cannot be good any more."""
        self.received += data
        self.arrivals += 1
        if not self._body_at and not self._read_head():
            return False
        if self._length == _OPEN:
            return self.received.endswith(b"\r\n0\r\n\r\n")
        return len(self.received) >= self._body_at + self._length

    @property
    def begun(self) -> bool:
        return 0 < self._body_at < len(self.received)

    @property
    def good(self) -> bool:
        """Whether it says 200, and brought what it announced and no more."""
        if not self.received.startswith(b"HTTP/1.1 200 "):
            return False
        if self._length == _OPEN:
            return self._dechunked() is not None
        return len(self.received) == self._body_at + self._length

    @property
    def body(self) -> bytes:
        """The body of a good reply."""
        if self._length == _OPEN:
            return self._dechunked() or b""
        return self.received[self._body_at :]

    def _read_head(self) -> bool:
        head = self.received.find(b"\r\n\r\n")
        if head < 0:
            return False
        self._body_at = head + 4
        if _CHUNKED.search(self.received, 0, head + 2):
            self._length = _OPEN
        elif length := _LENGTH.search(self.received, 0, head + 2):
            self._length = int(length[1])
        return True

    def _dechunked(self) -> bytes | None:
        """The chunks together; None when they are not framed as they must be."""
        body: list[bytes] = []
        at = self._body_at
        while True:
            size_ends = self.received.find(b"\r\n", at)
            try:
                size = int(self.received[at:size_ends], 16)
            except ValueError:
                return None
            begins, ends = size_ends + 2, size_ends + 2 + size
            if self.received[ends : ends + 2] != b"\r\n":
                return None
            at = ends + 2
            if size == 0:
                return b"".join(body) if at == len(self.received) else None
            body.append(self.received[begins:ends])
