"""Uvicorn's HTTP protocol with limits: what a client sends costs little before the application authenticates it.

Uvicorn 0.54 limits neither the head of a request nor the number of pipelined requests, and takes trailers for headers.
This subclass gives its parser one request at a time, counts what is parsed, and ends connections that take too long.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import get_local_addr, get_remote_addr

from tollkeeper.server.limits import HEAD_SECONDS, MAX_HEAD_BYTES, MAX_HEAD_FIELDS, Connections, EdgeLimits
from tollkeeper.server.refusals import refusal
from tollkeeper.server.response_cycle import ResponseCycle
from tollkeeper.server.sockets import has_unread_bytes

END_OF_HEAD = b"\r\n\r\n"
MAX_PENDING_BYTES = 64 * 1024
"""Of further requests while one is answered. Beyond that, nothing more is read from the connection."""
LINGER_S = 2.0
"""How long input is read and dropped after a response that came before the end of its request. Without that the client
would see a reset connection instead of the response (RFC 9112, 9.6 Tear-down)."""


class _Refused(Exception):
    """A request that is refused before the application sees it; `setting` is that of the limit, if one refuses it."""

    def __init__(self, status: int, setting: str | None = None) -> None:
        super().__init__(status)
        self.status, self.setting = status, setting


def bounded_protocol(limits: EdgeLimits, connections: Connections) -> type[HttpToolsProtocol]:
    """A protocol class with these limits. Its instances share the count of open connections."""
    return type("BoundedHttpProtocol", (_BoundedHttpProtocol,), {"limits": limits, "open_connections": connections})


class _BoundedHttpProtocol(HttpToolsProtocol):
    limits: EdgeLimits
    open_connections: Connections

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.timeout_keep_alive = self.limits.idle_s  # type: ignore[assignment]
        self._pending = b""
        self._timer: asyncio.TimerHandle | None = None
        self._is_counted = False
        self._dropping = False
        self._in_head = True
        self._is_whole = True
        self._fed_bytes = 0
        self._last_bytes = b""
        self._head_bytes = self._fields = self._hosts = 0
        self._body_left: int | None = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's transports are not subclasses of asyncio's
        self.client = get_remote_addr(transport)
        self._is_counted = self.open_connections.take(self._address)
        if self._is_counted:
            super().connection_made(transport)
            self._start_timer(self.limits.head_s, self._head_is_late)
        else:
            self.transport, self.flow, self.server = transport, FlowControl(transport), get_local_addr(transport)
            self._refuse(503)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self.give_back()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close the connection. A request that is on its way is answered first."""
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and (self._fed_bytes or has_unread_bytes(self.transport)):
            self._start_timer(LINGER_S, self._head_is_late)
        else:
            super().shutdown()

    def give_back(self) -> None:
        """Count the connection as closed."""
        if self._is_counted:
            self.open_connections.give_back(self._address)
        self._is_counted = False

    @property
    def _address(self) -> str | None:
        return self.client[0] if self.client else None

    # What is received
    def data_received(self, data: bytes) -> None:
        if not self._dropping:
            waiting, self._pending = self._pending, b""
            self._feed(waiting + data)

    def _feed(self, data: bytes) -> None:
        """Parse up to the end of a request, and keep the rest until that request is answered."""
        self._unset_keepalive_if_required()
        position, size = 0, len(data)
        while position < size and not self._dropping:
            if self._is_answering:
                self._pending = data[position:]
                if len(self._pending) > MAX_PENDING_BYTES:
                    self.flow.pause_reading()
                return
            end = self._end_of_part(data, position)
            self._parse(data if end - position == size else data[position:end])
            position = end

    @property
    def _is_answering(self) -> bool:
        """Whether a whole request was received and its response is not complete."""
        return self._is_whole and self.cycle is not None and not self.cycle.response_complete

    def _end_of_part(self, data: bytes, position: int) -> int:
        """Where to stop parsing: behind the head, behind a body of known length, or at the end of the data."""
        if not self._in_head:
            if self._body_left is None:
                return len(data)
            end = min(len(data), position + self._body_left)
            self._body_left -= end - position
            return end
        overlap = self._last_bytes + data[position : position + 3]
        found = overlap.find(END_OF_HEAD)
        if found >= 0:
            return position + found + len(END_OF_HEAD) - len(self._last_bytes)
        found = data.find(END_OF_HEAD, position)
        if found >= 0:
            return found + len(END_OF_HEAD)
        self._last_bytes = (self._last_bytes + data[max(position, len(data) - 3) :])[-3:]
        return len(data)

    def _parse(self, part: bytes) -> None:
        if self._in_head:
            self._fed_bytes += len(part)
            if self._timer is None:
                self._start_timer(self.limits.head_s, self._head_is_late)
        try:
            self.parser.feed_data(part)
        except httptools.HttpParserUpgrade:
            self._after_upgrade()
        except httptools.HttpParserError as error:
            refused = error.__context__ if isinstance(error.__context__, _Refused) else _Refused(400)
            self._count_refusal(refused.setting)
            self._refuse(refused.status)
        else:
            if self._in_head and self._fed_bytes > self.limits.max_head_bytes:
                self._count_refusal(MAX_HEAD_BYTES)
                self._refuse(431)

    def _after_upgrade(self) -> None:
        """Open a WebSocket; or answer a request for another protocol as a plain one, and close the connection."""
        if self._should_upgrade():
            self._stop_timer()
            self.handle_websocket_upgrade()
            return
        self.cycle.keep_alive = False
        self.on_message_complete()
        self._dropping = True

    def handle_websocket_upgrade(self) -> None:
        super().handle_websocket_upgrade()
        self._dropping = True
        opened = self.transport.get_protocol()
        opened.when_lost = self.give_back  # type: ignore[attr-defined]

    def _should_upgrade(self) -> bool:
        is_plain_get = self.parser.get_method() == b"GET" and self._body_left == 0
        return is_plain_get and self.parser.get_http_version() == "1.1" and super()._should_upgrade()

    # What the parser finds

    def on_message_begin(self) -> None:
        if self._is_answering:  # the end of a chunked request and the next one came together
            self.cycle.keep_alive = False
            self._dropping = True
        if self._dropping:
            return
        self._is_whole = False
        self._head_bytes = self._fields = self._hosts = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._dropping:
            self._count(len(url))
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._dropping or not self._in_head:
            return  # trailers: nothing in the application needs them, and none may pass for a header
        self._fields += 1
        self._hosts += name.lower() == b"host"
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.limits.max_head_bytes:
            raise _Refused(431, MAX_HEAD_BYTES)
        if self._fields > self.limits.max_head_fields:
            raise _Refused(431, MAX_HEAD_FIELDS)

    def on_headers_complete(self) -> None:
        if self._dropping:
            return
        self._stop_timer()
        self._in_head = False
        if self._hosts > 1 or (self._hosts == 0 and self.parser.get_http_version() != "1.0"):
            raise _Refused(400)
        self._body_left = self._length_of_body()
        super().on_headers_complete()

    def _length_of_body(self) -> int | None:
        """In bytes; None where the body is chunked. The parser has refused contradictory headers."""
        headers = dict(self.headers)
        return None if b"transfer-encoding" in headers else int(headers.get(b"content-length", 0))

    def on_body(self, body: bytes) -> None:
        if not self._dropping:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._dropping or self._is_whole:
            return
        self._is_whole = self._in_head = True
        self._fed_bytes, self._last_bytes = 0, b""
        if self.cycle is not None and self.cycle.response_complete:
            self._stop_timer()
            self._start_idle_timer()
        super().on_message_complete()

    # What is sent

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        cycle.__class__ = ResponseCycle  # which class it makes is not a setting of uvicorn
        cycle.keep_alive = cycle.keep_alive and not self.open_connections.is_draining
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            pass
        elif not self._is_whole:
            self._unset_keepalive_if_required()
            self._start_timer(LINGER_S, self.transport.close)
        elif self._pending:
            data, self._pending = self._pending, b""
            self._feed(data)

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():  # the client does not read its response
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def _refuse(self, status: int) -> None:
        """Send this status if no response has begun, read no more, and close."""
        self._dropping = True
        self._stop_timer()
        self._unset_keepalive_if_required()
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.close()
            return
        self.transport.write(refusal(status))
        if self._is_counted and self.transport.can_write_eof():
            self.transport.write_eof()
            self._start_timer(LINGER_S, self.transport.close)
        else:
            self.transport.close()

    def _count_refusal(self, setting: str | None) -> None:
        if setting is None:
            self.open_connections.bad_requests += 1
        else:
            self.open_connections.refusals[setting] += 1

    def _head_is_late(self) -> None:
        self._timer = None
        if self._fed_bytes:
            self._count_refusal(HEAD_SECONDS)
            self._refuse(408)
        else:
            self.transport.close()

    def _start_idle_timer(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _start_timer(self, seconds: float, expired: Callable[[], object]) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, expired)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
