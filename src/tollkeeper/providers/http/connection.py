"""One HTTP/1.1 connection. It has one request at a time, and what it receives belongs to that request or ends it."""

import asyncio
import select
from collections.abc import Callable
from typing import cast

from tollkeeper.providers.http.base import (
    MAX_INTERIM_RESPONSES,
    ConnectFailed,
    ConnectionLost,
    MalformedResponse,
)
from tollkeeper.providers.http.body import Body, UnsizedBody, body_of
from tollkeeper.providers.http.pooled_response import PooledResponse
from tollkeeper.providers.http.response_head import HeadReader, ResponseHead

MAX_JOINED_BYTES = 64 * 1024
"""A body up to this size is written together with the head of its request."""


class Connection(asyncio.Protocol):
    """`on_free` is called when the connection can have its next request, `on_lost` when it has ended."""

    def __init__(
        self, on_free: Callable[["Connection", ResponseHead], None], on_lost: Callable[["Connection"], None]
    ) -> None:
        self._on_free = on_free
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._readable = select.poll()
        self._response: PooledResponse | None = None
        self._head_reader: HeadReader | None = None
        self._head: ResponseHead | None = None
        self._body: Body | None = None
        self._interim = 0
        self._is_written = True
        self.is_lost = False
        self.opened_at = self.expires_at = 0.0
        """In seconds of the loop's clock. After `expires_at`, a connection without a request is not used again."""

    @property
    def is_free(self) -> bool:
        """Whether a request can be sent: nothing was received since the last response, and no end."""
        is_open = self._transport is not None and not self.is_lost and not self._transport.is_closing()
        return is_open and self._response is None and not self._readable.poll(0)

    def send(self, head: bytes, body: bytes, max_bytes: int | None) -> PooledResponse:
        """Send a request. Its response gets all that is received from now on. The connection must be free."""
        assert self._transport is not None
        assert self._response is None
        response = self._response = PooledResponse(self, max_bytes)
        self._head_reader = HeadReader()
        self._interim = 0
        if len(body) <= MAX_JOINED_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))
        return response

    def close(self) -> None:
        """Close the connection. It has no request."""
        self.is_lost = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once, whatever it is doing."""
        self.is_lost = True
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        if self._transport is not None and not self.is_lost:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self.is_lost:
            self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # `pause_writing` is called unless all was written. With 0, asyncio's TLS calls it also then.
        self._transport.set_write_buffer_limits(high=1)
        self._readable.register(transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLHUP)

    def pause_writing(self) -> None:
        self._is_written = False

    def resume_writing(self) -> None:
        self._is_written = True

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None:
            self.abort()
            return
        try:
            self._receive(response, data)
        except MalformedResponse as error:
            self._response = None
            response.fail(error)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        response, self._response = self._response, None
        if response is not None:
            if isinstance(self._body, UnsizedBody) and error is None:
                response.receive(b"", complete=True)
            elif self._is_written or self._head is not None:
                response.fail(ConnectionLost())
            else:
                response.fail(ConnectFailed())
        self._on_lost(self)

    def _receive(self, response: PooledResponse, data: bytes) -> None:
        while self._body is None:
            begin = self._read_head(response, data)
            if begin is None:
                return
            data = data[begin:]
        body = self._body
        block = body.feed(data)
        if not body.complete:
            response.receive(block, complete=False)
            return
        head = cast("ResponseHead", self._head)
        self._response = self._head = self._body = None
        if head.keeps_alive and self._is_written and not body.excess and not self.is_lost:
            self._on_free(self, head)
        elif self._is_written:
            self.close()
        else:  # what the server does not read is not kept
            self.abort()
        response.receive(block, complete=True)

    def _read_head(self, response: PooledResponse, data: bytes) -> int | None:
        """Read on in the head. Returns where it ends in `data`; None if it does not."""
        reader = cast("HeadReader", self._head_reader)
        begin = reader.feed(data)
        head = reader.head
        if begin is None or head is None:
            return None
        if head.is_interim:
            self._interim += 1
            if self._interim > MAX_INTERIM_RESPONSES:
                raise MalformedResponse("too many interim responses")
            self._head_reader = HeadReader()
            return begin
        self._head = head
        self._body = body_of(head)
        self._head_reader = None
        response.receive_head(head)
        return begin
