"""The `tollkeeper` command, which writes how many tasks and threads it has into a file when it receives SIGUSR2."""

import asyncio
import json
import os
import signal
import threading
from contextlib import suppress
from pathlib import Path

from tollkeeper.cli import main

COUNTS_FILE = "SOAK_COUNTS_FILE"


def _write_counts(*_: object) -> None:
    with suppress(RuntimeError):  # no loop is running
        counts = {"tasks": len(asyncio.all_tasks()), "threads": threading.active_count()}
        path = Path(os.environ[COUNTS_FILE])
        path.with_suffix(".tmp").write_text(json.dumps(counts))
        path.with_suffix(".tmp").replace(path)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, _write_counts)
    main()
