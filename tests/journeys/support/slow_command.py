"""The `tollkeeper` command that verifies a few rows at a time, and waits after the first entries, and again after the
first charges, until a file of the name of what was checked is in the working folder.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from tollkeeper.cli import main, progress
from tollkeeper.quota.audit import verify

ROWS = 5
POLL_S = 0.05

_server = os.getppid()
_show = progress.ProgressLines.show


def _show_and_wait(self: progress.ProgressLines, checked: Mapping[str, int], *, is_last: bool = False) -> None:
    _show(self, checked, is_last=is_last)
    awaited = Path("charges" if checked["charges"] else "entries")
    while not is_last and not awaited.exists() and os.getppid() == _server:
        time.sleep(POLL_S)


if __name__ == "__main__":
    progress.INTERVAL_S = 0
    progress.ProgressLines.show = _show_and_wait  # type: ignore[method-assign]
    assert verify.verify.__kwdefaults__ is not None
    verify.verify.__kwdefaults__["chunk"] = ROWS
    main()
