"""The sockets that a server listens on."""

import errno
import socket

from tollkeeper.errors import ConfigurationError


def authority(host: str, port: int) -> str:
    """The authority of a URL, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def local_authority(host: str, port: int) -> str:
    """The authority at which this machine reaches a server that listens on this address: loopback for "all addresses",
    which not every client can call.
    """
    return authority({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)  # noqa: S104


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Returns a bound socket. With `shared`, further sockets may be bound to the same address, and the kernel spreads
    the connections over those that listen.

    Raises ConfigurationError when the port is in use or the address is not local.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"Port {port} is in use. Choose another, for example with --port {port + 1}, or:"
                f" make run PORT={port + 1}"
            ) from None
        raise ConfigurationError(f"Cannot listen on {authority(host, port)}: {error.strerror or error}.") from None
    return listener


def bind_for_workers(host: str, port: int, count: int) -> list[socket.socket]:
    """A bound socket for each worker, so that the kernel gives each an equal share of the connections.

    Raises ConfigurationError as `bind` does, also if another server shares its port.
    """
    bind(host, port).close()
    listeners = [bind(host, port, shared=True)]
    port = listeners[0].getsockname()[1]
    return listeners + [bind(host, port, shared=True) for _ in range(count - 1)]
