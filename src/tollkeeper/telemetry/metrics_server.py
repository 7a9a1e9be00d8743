"""Serves metrics on a port of their own, for Prometheus."""

import socket
import threading
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.registry import Collector

MAX_CONNECTIONS = 64
"""Connections that are served at once, each by a thread. Further ones are closed: a client that opens thousands must
not take the file descriptors of calls.
"""


class _SilentHandler(WSGIRequestHandler):
    timeout = 10.0
    """Seconds that a client may take for its request."""

    def log_message(self, *_: object) -> None:
        """Scrapes are not logged."""


class MetricsServer(ThreadingMixIn, WSGIServer):
    """Serves the metrics of a collector on a listening socket, which other processes may have, too."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, collector: Collector) -> None:
        super().__init__(listener.getsockname()[:2], _SilentHandler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        listener.setblocking(False)  # else one waits for ever for a connection that another process has taken
        self.server_name, self.server_port = listener.getsockname()[:2]
        self.setup_environ()
        self._free = threading.Semaphore(MAX_CONNECTIONS)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(collector)
        self.set_app(make_wsgi_app(registry))

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve in a thread, if one is free."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The work of that thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()
