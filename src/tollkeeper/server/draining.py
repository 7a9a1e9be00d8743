"""A server that stops in two steps: first it says that it is not ready, and still serves; then it takes nothing new."""

import asyncio
import socket
import time

import structlog
import uvicorn

from tollkeeper.server.limits import Connections
from tollkeeper.server.sockets import accept_last

POLL_S = 0.1
QUIET_S = 0.5
"""Open connections on which no request ends for so long are closed once the server refuses new ones."""
MAX_QUIET_WAIT_S = 4.0
"""How long requests on open connections may put that off. By then a proxy that has seen a refused connection, as nginx
for its `fail_timeout`, still leaves this server out."""
_TICKS_PER_S = 10
"""Uvicorn renews the Date header of responses at every tenth tick."""

log = structlog.get_logger("tollkeeper.server")


class DrainingServer(uvicorn.Server):
    """A server that is stopping goes on for `drain_s`, so that load balancers notice that it is not ready.

    Each response closes its connection meanwhile. Then new connections are refused, those that are open may still send
    a request, and requests have the grace period of uvicorn to end. A second SIGINT ends the wait.
    """

    def __init__(self, config: uvicorn.Config, connections: Connections, drain_s: float) -> None:
        super().__init__(config)
        self._connections = connections
        self._drain_s = drain_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._connections.is_draining = True
        log.info("server.stopping", seconds=self._drain_s, connections=len(self._connections))
        end, ticks = time.monotonic() + self._drain_s, 0
        while time.monotonic() < end and not self.force_exit:
            ticks += 1
            await self.on_tick(ticks % _TICKS_PER_S)
            await asyncio.sleep(POLL_S)
        if self._drain_s and not self.force_exit:
            await self._stop_listening(sockets or [])
        await super().shutdown(sockets)

    async def _stop_listening(self, sockets: list[socket.socket]) -> None:
        """Refuse new connections, and serve those that were opened before.

        A proxy that does not check whether the server is ready, as nginx, notices its stop by a refused connection. It
        tries another server then. But a connection that is closed once a POST was sent into it is an error for its
        caller. So connections that a proxy keeps open for further requests are used up first, each by one response.
        """
        accepted = [connection for listener in sockets for connection in accept_last(listener)]
        for server in self.servers:
            server.close()
        for listener in sockets:
            listener.close()
        loop = asyncio.get_running_loop()
        for connection in accepted:
            await loop.connect_accepted_socket(self._make_protocol, connection)
        end, requests = time.monotonic() + MAX_QUIET_WAIT_S, -1
        while requests != self.server_state.total_requests and time.monotonic() < end and not self.force_exit:
            requests = self.server_state.total_requests
            await asyncio.sleep(QUIET_S)

    def _make_protocol(self) -> asyncio.Protocol:
        """As uvicorn does for the connections that it accepts."""
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
