"""Opens connections to one origin: resolves its name, tries its addresses (RFC 8305), and begins TLS."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from functools import cache
from pathlib import Path

import aiohappyeyeballs
from aiohappyeyeballs import AddrInfoType

from tollkeeper.providers.http.base import ConnectFailed
from tollkeeper.providers.http.connection import Connection

NEXT_ADDRESS_AFTER_S = 0.25
"""How long an address is tried before the next one is, too (RFC 8305, section 5, recommends 250 ms)."""
ADDRESSES_VALID_S = 10.0
"""How long resolved addresses are used. Many connections that are opened at once ask only once."""


class Connector:
    """Opens connections to a host and port. `ca_file`: its certificates are trusted, too, beside the system's.

    Raises OSError for a `ca_file` without certificates.
    """

    def __init__(self, host: str, port: int, *, tls: bool, ca_file: Path | None, connect_s: float) -> None:
        self._host = host
        self._port = port
        self._tls = tls_context(ca_file) if tls else None
        self._connect_s = connect_s
        self._addresses: asyncio.Future[list[AddrInfoType]] | None = None
        self._resolved_at = 0.0

    async def connect(self, make_connection: Callable[[], Connection]) -> Connection:
        """A new connection. Raises ConnectFailed, also after `connect_s`."""
        try:
            async with asyncio.timeout(self._connect_s):
                return await self._open(make_connection)
        except (OSError, UnicodeError) as error:  # TimeoutError, ssl.SSLError and socket.gaierror are OSErrors
            raise ConnectFailed(type(error).__name__) from error

    async def _open(self, make_connection: Callable[[], Connection]) -> Connection:
        loop = asyncio.get_running_loop()
        sock = await aiohappyeyeballs.start_connection(
            await self._resolve(), happy_eyeballs_delay=NEXT_ADDRESS_AFTER_S, interleave=1, loop=loop
        )
        connection: Connection | None = None

        def make() -> Connection:
            nonlocal connection
            connection = make_connection()
            return connection

        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            hostname = self._host if self._tls is not None else None
            _, opened = await loop.create_connection(make, sock=sock, ssl=self._tls, server_hostname=hostname)
        except BaseException:
            if connection is None:
                sock.close()
            else:  # the socket belongs to a transport, which closes it
                connection.abort()
            raise
        return opened

    def close(self) -> None:
        if self._addresses is not None:
            self._addresses.cancel()

    async def _resolve(self) -> list[AddrInfoType]:
        """The addresses of the host. Those who ask at the same time share one look-up."""
        loop = asyncio.get_running_loop()
        found = self._addresses
        if found is None or (found.done() and loop.time() - self._resolved_at > ADDRESSES_VALID_S):
            found = self._addresses = asyncio.ensure_future(self._look_up())
            found.add_done_callback(lambda done: done.cancelled() or done.exception())  # even without a waiter
        try:
            return list(await asyncio.shield(found))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if found.cancelled() and (task is None or not task.cancelling()):
                raise ConnectFailed("the client was closed") from None
            raise
        except OSError:
            if self._addresses is found:
                self._addresses = None
            raise

    async def _look_up(self) -> list[AddrInfoType]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        self._resolved_at = loop.time()
        return [(family, kind, protocol, "", address) for family, kind, protocol, _, address in found]


@cache
def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Verifies certificates and names. Raises OSError if `ca_file` cannot be read or has no certificates."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context
