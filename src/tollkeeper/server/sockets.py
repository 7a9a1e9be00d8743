"""What the system holds of a socket that the event loop has not taken yet."""

import asyncio
import ctypes
import select
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27  # asm-generic/socket.h of Linux; Python has no names for them
_TCP_FLAGS_AT, _SYN = 13, 0x02  # RFC 9293, 3.1 Header Format
_DROP_SYN = (  # struct sock_filter: code, jump if true, jump if false, value (networking/filter.rst of Linux)
    (0x30, 0, 0, _TCP_FLAGS_AT),  # load a byte
    (0x45, 0, 1, _SYN),  # if it has this bit
    (0x06, 0, 0, 0),  # drop the segment
    (0x06, 0, 0, 0xFFFFFFFF),  # pass all of it
)


def accept_last(listener: socket.socket) -> Iterator[socket.socket]:
    """Yields the connections that are open for their clients, and that the event loop has not accepted yet.

    On Linux none opens from then on: between the last `accept` and the close of the listener, a connection would open
    for its client, and be reset. What the client sends again a second later is refused, once the listener is closed.
    """
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in _DROP_SYN)
    kept = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HL", len(_DROP_SYN), ctypes.addressof(kept))
    if sys.platform == "linux":
        with suppress(OSError):  # of a system that permits no filter
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    with suppress(OSError):
        while True:
            yield listener.accept()[0]


def let_connections_open(listener: socket.socket) -> None:
    """Undo what `accept_last` did to a listener that another process goes on with."""
    if sys.platform == "linux":
        with suppress(OSError):  # there is no filter
            listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


def has_unread_bytes(transport: asyncio.BaseTransport) -> bool:
    """Whether bytes, or the end of the connection, were received that the event loop has not read yet."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))
