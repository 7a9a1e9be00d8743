"""Waiting until a server that a test has started answers."""

import subprocess
import time
import urllib.request
from contextlib import suppress

from support.deadlines import TEST_DEADLINE_S


def wait_until_healthy(url: str, server: subprocess.Popen[bytes], seconds: float = TEST_DEADLINE_S) -> None:
    """Wait until the server is healthy. Fails if it ends, or is not healthy after so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server has ended"
        with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=TEST_DEADLINE_S):
            return
        time.sleep(0.1)
    raise AssertionError("the server does not answer")
