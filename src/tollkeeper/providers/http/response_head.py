"""The head of a response, read by llhttp (through httptools), and the length of its body (RFC 9112, sections 4 to 6).

llhttp and the search for the empty line must agree where a head ends. So no byte of a body is ever read as a header, or
the other way round, because of a line ending that one of them takes for another.
"""

import re
from typing import NamedTuple

import httptools

from tollkeeper.providers.http.base import MalformedResponse

MAX_HEAD_BYTES = 64 * 1024
MAX_FIELDS = 256
END_OF_HEAD = b"\r\n\r\n"

_LENGTH = re.compile(rb"[0-9]{1,15}")
_REASON = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_STATUSES_WITHOUT_BODY = frozenset({204, 304})


class ResponseHead(NamedTuple):
    """`length` is the body's, in bytes; None: it is chunked, or ends with the connection."""

    status: int
    fields: dict[bytes, bytes]
    length: int | None
    is_chunked: bool
    keeps_alive: bool

    @property
    def is_interim(self) -> bool:
        """Whether another response follows this one (RFC 9110, section 15.2)."""
        return self.status < 200


class HeadReader:
    """Reads one head from blocks of any size."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._fields: dict[bytes, bytes] = {}
        self._number_of_fields = self._size = 0
        self._tail = b""
        self.head: ResponseHead | None = None

    def feed(self, data: bytes) -> int | None:
        """Returns where in `data` the body begins; None while the head is not complete. Raises MalformedResponse."""
        if self._size == 0 and data and not data.startswith(b"H"):  # llhttp skips line ends before a head
            raise MalformedResponse("the head is not HTTP/1.1")
        tail = self._tail
        found = (tail + data if tail else data).find(END_OF_HEAD)
        end = len(data) if found < 0 else found + len(END_OF_HEAD) - len(tail)
        self._size += end
        if self._size > MAX_HEAD_BYTES:
            raise MalformedResponse("the head is too large")
        try:
            self._parser.feed_data(data[:end])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise MalformedResponse("the head is not HTTP/1.1") from error
        if (self.head is None) != (found < 0):
            raise MalformedResponse("the head does not end with an empty line")
        self._tail = (tail + data)[-3:] if found < 0 else b""
        return None if found < 0 else end

    def on_status(self, reason: bytes) -> None:
        """Called by the parser."""
        if _REASON.fullmatch(reason) is None:
            raise MalformedResponse("the reason has a control character")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        self._number_of_fields += 1
        if self._number_of_fields > MAX_FIELDS:
            raise MalformedResponse("too many headers")
        name = name.lower()
        if name in (b"transfer-encoding", b"connection") and name in self._fields:
            value = self._fields[name] + b"," + value
        self._fields[name] = value

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self.head = _describe(self._parser.get_status_code(), self._parser.get_http_version(), self._fields)


def _describe(status: int, version: str, fields: dict[bytes, bytes]) -> ResponseHead:
    if version not in ("1.1", "1.0") or status == 101:
        raise MalformedResponse("another protocol")
    keeps_alive = version == "1.1" and b"close" not in fields.get(b"connection", b"").lower()
    coding = fields.get(b"transfer-encoding")
    if status < 200 or status in _STATUSES_WITHOUT_BODY:
        announces_body = coding is not None or fields.get(b"content-length", b"0") != b"0"
        return ResponseHead(status, fields, 0, False, keeps_alive and not announces_body)
    if coding is not None:
        if coding.strip(b" \t").lower() != b"chunked" or b"content-length" in fields:
            raise MalformedResponse("the length of the body is not certain")
        return ResponseHead(status, fields, None, True, keeps_alive)
    length = fields.get(b"content-length")
    if length is None:
        return ResponseHead(status, fields, None, False, False)
    if _LENGTH.fullmatch(length) is None:
        raise MalformedResponse("Content-Length is no number")
    return ResponseHead(status, fields, int(length), False, keeps_alive)
