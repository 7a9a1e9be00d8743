"""The server of one worker process."""

import asyncio
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn

from tollkeeper.server.draining import DrainingServer
from tollkeeper.server.limits import Connections
from tollkeeper.workers.supervisor import Worker

TICKS_PER_REPORT = 10


class WorkerServer(DrainingServer):
    """A server that tells its supervisor when it serves, and that stops when its supervisor is gone."""

    def __init__(self, config: uvicorn.Config, connections: Connections, drain_s: float, worker: Worker) -> None:
        super().__init__(config, connections, drain_s)
        self._worker = worker

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to serve. A stop that was demanded meanwhile follows at once."""
        await super().startup(sockets)
        asyncio.get_running_loop().add_reader(self._worker.channel, self._on_supervisor_gone)
        self._worker.report_alive()

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second, also while this server drains."""
        if counter % TICKS_PER_REPORT == 0:
            self._worker.report_alive()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """The supervisor does not hear of this worker any more."""
        self._worker.report_stop()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle signals, also those that were sent since the fork."""
        with super().capture_signals():
            self._worker.accept_signals()
            yield

    def _on_supervisor_gone(self) -> None:
        asyncio.get_running_loop().remove_reader(self._worker.channel)
        self.handle_exit(signal.SIGTERM, None)
