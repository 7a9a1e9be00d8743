"""The `tollkeeper` command with one second for the first frame of a WebSocket, so that a test does not wait long."""

from tollkeeper.api.native import socket
from tollkeeper.cli import main

if __name__ == "__main__":
    socket.AUTH_TIMEOUT_S = 1.0
    main()
