"""The `tollkeeper` command with short times for WebSockets, so that a test does not wait long: one second for the first
frame, and half a second until the credential of an idle connection is checked again.
"""

from tollkeeper.api.native import socket_connection
from tollkeeper.cli import main

if __name__ == "__main__":
    socket_connection.AUTH_TIMEOUT_S = 1.0
    socket_connection.RECHECK_S = 0.5
    main()
