"""Uvicorn's cycle of one request and its response, with a cheaper `send`.

Uvicorn 0.54 searches each name and each value of a header with a regular expression, and writes the head and the body
one after the other. Here the head is checked as a whole, and is written together with the first part of the body.
"""

import re
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

_STATUSES_WITHOUT_BODY = frozenset({204, 304})
_INVALID_NAMES = re.compile(rb'[\x00-\x1f\x7f()<>@,;:\[\]={} \\"]')
_INVALID_VALUES = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""What may not be in the names and the values of headers: as uvicorn's own patterns."""


class ResponseCycle(RequestResponseCycle):
    """One request and its response. `pending_head` is the head of a response whose first part was not sent yet."""

    pending_head = b""

    async def send(self, message: Any) -> None:
        if self.response_complete or self.access_log or self.scope["method"] == "HEAD":
            await super().send(message)
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if self.response_started:
            self._send_body(message)
        elif message["type"] == "http.response.start":
            self.response_started = True
            self.waiting_for_100_continue = False
            self.pending_head = self._encode_head(message["status"], message.get("headers", ()))
        else:
            raise RuntimeError(f"expected http.response.start, got {message['type']}")

    def _encode_head(self, status: int, headers: Any) -> bytes:
        """The status line and the headers. Raises RuntimeError for a header that HTTP does not allow."""
        headers = [*self.default_headers, *((name.lower(), value) for name, value in headers)]
        names, values = zip(*headers, strict=True) if headers else ((), ())
        if _INVALID_NAMES.search(b"".join(names)) or _INVALID_VALUES.search(b"".join(values)):
            raise RuntimeError("a header of the response has a character that HTTP does not allow")
        lines = [name + b": " + value for name, value in headers]
        found = dict(headers)
        if b"close" in found.get(b"connection", b"").lower():
            self.keep_alive = False
        elif not self.keep_alive:
            lines.append(b"connection: close")
        if found.get(b"transfer-encoding", b"").lower() == b"chunked":
            self.chunked_encoding = True
        elif b"content-length" in found:
            self.chunked_encoding = False
            self.expected_content_length = int(found[b"content-length"])
        elif status not in _STATUSES_WITHOUT_BODY:
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked")
        return STATUS_LINE[status] + b"\r\n".join(lines) + b"\r\n\r\n"

    def _send_body(self, message: Any) -> None:
        if message["type"] != "http.response.body":
            raise RuntimeError(f"expected http.response.body, got {message['type']}")
        body = message.get("body", b"")
        more = message.get("more_body", False)
        if self.chunked_encoding:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            self.transport.write(self.pending_head + chunk + (b"" if more else b"0\r\n\r\n"))
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0 or (self.expected_content_length and not more):
                raise RuntimeError("the body is not as long as its Content-Length")
            self.transport.write(self.pending_head + body)
        self.pending_head = b""
        if not more:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()
