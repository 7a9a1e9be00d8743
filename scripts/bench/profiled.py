"""The `tollkeeper` command under cProfile: `profiled.py FILE serve …`. SIGUSR1 begins, SIGUSR2 ends and writes FILE.

The main thread and every job of an executor's threads are counted, so that the ledger's thread is in the picture.
The main thread by the clock, for its functions are too many and too small for a costlier timer; the others by CPU time.
"""

import contextlib
import cProfile
import signal
import sys
import threading
import time
from concurrent.futures import thread
from pathlib import Path
from pstats import Stats
from typing import Any

_main = cProfile.Profile()
_jobs: dict[int, cProfile.Profile] = {}
_file = Path()
_on = False


def _begin(*_: object) -> None:
    global _on
    _on = True
    _main.enable()


def _end(*_: object) -> None:
    global _on
    _on = False
    _main.disable()
    merged = Stats(_main)
    for profile in _jobs.values():
        merged.add(profile)
    unfinished = _file.with_suffix(".part")
    merged.dump_stats(unfinished)
    unfinished.rename(_file)


def _profile_jobs() -> None:
    run = thread._WorkItem.run

    def profiled(item: Any, *args: Any) -> None:
        if not _on:
            run(item, *args)
            return
        profile = _jobs.setdefault(threading.get_ident(), cProfile.Profile(time.thread_time))
        with contextlib.suppress(ValueError):  # Python 3.12 on: the main thread's profile sees every thread
            profile.enable()
        try:
            run(item, *args)
        finally:
            profile.disable()

    thread._WorkItem.run = profiled  # type: ignore[method-assign, assignment]


def main() -> None:
    """Run the command, with the two signals listened to."""
    global _file
    _file = Path(sys.argv.pop(1))
    signal.signal(signal.SIGUSR1, _begin)
    signal.signal(signal.SIGUSR2, _end)
    _profile_jobs()
    from tollkeeper.cli import main as tollkeeper

    tollkeeper()


if __name__ == "__main__":
    main()
