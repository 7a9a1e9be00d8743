"""The listener of a server that stops."""

import socket
import sys

import pytest

from tollkeeper.server.sockets import accept_last, let_connections_open


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no filter that refuses new connections")
@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_connection_is_accepted_or_does_not_open(family: socket.AddressFamily, address: str) -> None:
    """It never opens for its client and is reset."""
    with socket.socket(family) as listener:
        listener.bind((address, 0))
        listener.listen()
        listener.setblocking(False)
        place = listener.getsockname()[:2]
        with socket.create_connection(place) as early:
            [accepted] = accept_last(listener)
            with pytest.raises(TimeoutError):
                socket.create_connection(place, timeout=0.2)
            early.sendall(b"request")
            with accepted:
                assert accepted.recv(100) == b"request"
        let_connections_open(listener)
        let_connections_open(listener)
        socket.create_connection(place, timeout=20).close()
