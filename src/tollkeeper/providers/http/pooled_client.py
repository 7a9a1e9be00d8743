"""Our own HTTP/1.1 client: one pool of kept connections to one origin."""

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path

from tollkeeper.providers.http.base import ConnectFailed
from tollkeeper.providers.http.connection import Connection
from tollkeeper.providers.http.connector import Connector
from tollkeeper.providers.http.pooled_response import PooledResponse
from tollkeeper.providers.http.request_head import RequestHeads
from tollkeeper.providers.http.response_head import ResponseHead

KEEP_ALIVE_S = 30.0
"""How long a connection without a request is kept, unless the server keeps it for less."""
KEEP_ALIVE_MARGIN_S = 1.0
"""How much sooner than the server a connection is closed."""
MAX_AGE_S = 600.0
"""An older connection gets no further request, so that changed addresses of the host come into use."""
MAX_KEPT = 1_024
"""How many connections without a request are kept."""
SWEEP_INTERVAL_S = 5.0

_SERVER_TIMEOUT = re.compile(rb"timeout=\"?([0-9]{1,6})", re.IGNORECASE)


class PooledClient:
    """Sends requests to the origin of `base_url`, with these headers. Connecting takes at most `connect_s`.

    A request is sent again, once, only if a kept connection ended before the request's last byte was written. The
    number of connections is not limited: each call in flight has its own.
    """

    def __init__(
        self, base_url: str, headers: Mapping[str, str], *, connect_s: float, ca_file: Path | None = None
    ) -> None:
        """Raises ValueError for a base URL without a host, and for a header that HTTP does not allow."""
        self._heads = RequestHeads(base_url, headers)
        self._connector = Connector(
            self._heads.host,
            self._heads.port,
            tls=self._heads.is_https,
            ca_file=ca_file,
            connect_s=connect_s,
        )
        self._all: set[Connection] = set()
        self._kept: dict[Connection, None] = {}
        """The connections without a request, in the order of their last use."""
        self._sweeping: asyncio.TimerHandle | None = None
        self._closed = False

    async def post(
        self,
        path: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        total_s: float | None = None,
        max_bytes: int | None = None,
    ) -> PooledResponse:
        loop = asyncio.get_running_loop()
        ends_at = None if total_s is None else loop.time() + total_s
        head = self._heads.encode(path, headers, len(body))
        kept = self._take_kept()
        if kept is not None:
            try:
                return await _exchange(kept, head, body, ends_at, max_bytes)
            except ConnectFailed:
                pass
        return await _exchange(await self._connect(), head, body, ends_at, max_bytes)

    async def close(self) -> None:
        self._closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        self._connector.close()
        for connection in list(self._all):
            connection.abort()
        self._kept.clear()

    def _take_kept(self) -> Connection | None:
        """The connection that was used last, if it can be used again."""
        now = asyncio.get_running_loop().time()
        while self._kept:
            connection, _ = self._kept.popitem()
            if connection.expires_at > now and connection.is_free:
                return connection
            connection.close()
        return None

    async def _connect(self) -> Connection:
        if self._closed:
            raise ConnectFailed("the client was closed")
        connection = await self._connector.connect(lambda: Connection(self._keep, self._forget))
        if connection.is_lost or self._closed:
            connection.abort()
            raise ConnectFailed
        connection.opened_at = asyncio.get_running_loop().time()
        self._all.add(connection)
        return connection

    def _keep(self, connection: Connection, head: ResponseHead) -> None:
        loop = asyncio.get_running_loop()
        keep_s = KEEP_ALIVE_S
        if (sent := _SERVER_TIMEOUT.search(head.fields.get(b"keep-alive", b""))) is not None:
            keep_s = min(keep_s, int(sent[1]) - KEEP_ALIVE_MARGIN_S)
        connection.expires_at = min(loop.time() + keep_s, connection.opened_at + MAX_AGE_S)
        if self._closed or len(self._kept) >= MAX_KEPT or connection.expires_at <= loop.time():
            connection.close()
            return
        self._kept[connection] = None
        if self._sweeping is None:
            self._sweeping = loop.call_later(SWEEP_INTERVAL_S, self._sweep)

    def _forget(self, connection: Connection) -> None:
        self._all.discard(connection)
        self._kept.pop(connection, None)

    def _sweep(self) -> None:
        """Close the kept connections that have expired."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in [connection for connection in self._kept if connection.expires_at <= now]:
            del self._kept[connection]
            connection.close()
        self._sweeping = loop.call_later(SWEEP_INTERVAL_S, self._sweep) if self._kept else None


async def _exchange(
    connection: Connection, head: bytes, body: bytes, ends_at: float | None, max_bytes: int | None
) -> PooledResponse:
    """Send a request and wait for its response to start. However that ends, no connection is left half-used."""
    response = connection.send(head, body, max_bytes)
    if ends_at is not None:
        response.end_after(ends_at - asyncio.get_running_loop().time())
    try:
        await response.start()
    except BaseException:
        response.close()
        raise
    return response
