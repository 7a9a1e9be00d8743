"""The `tollkeeper` command under cProfile: `profiled_server.py FILE serve …`. SIGUSR1 starts, SIGUSR2 writes FILE.

The profile contains the main thread, every job of an executor's threads, and every job of the ledger's thread.
The main thread is timed by the wall clock: it calls many small functions, and a CPU timer costs too much for them. The
other threads are timed by CPU time.
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

_main_profile = cProfile.Profile()
_thread_profiles: dict[int, cProfile.Profile] = {}
_output = Path()
_enabled = False


def _start(*_: object) -> None:
    global _enabled
    _enabled = True
    _main_profile.enable()


def _stop(*_: object) -> None:
    global _enabled
    _enabled = False
    _main_profile.disable()
    merged = Stats(_main_profile)
    for profile in _thread_profiles.values():
        merged.add(profile)
    partial = _output.with_suffix(".part")
    merged.dump_stats(partial)
    partial.rename(_output)


def _profile_jobs(kind: type[Any]) -> None:
    """Profile what `kind.run` calls in its thread."""
    run = kind.run

    def run_profiled(item: Any, *args: Any) -> None:
        if not _enabled:
            run(item, *args)
            return
        profile = _thread_profiles.setdefault(threading.get_ident(), cProfile.Profile(time.thread_time))
        with contextlib.suppress(ValueError):  # since Python 3.12 the main thread's profile includes every thread
            profile.enable()
        try:
            run(item, *args)
        finally:
            profile.disable()

    kind.run = run_profiled


def main() -> None:
    """Run the command with handlers for the two signals."""
    global _output
    _output = Path(sys.argv.pop(1))
    signal.signal(signal.SIGUSR1, _start)
    signal.signal(signal.SIGUSR2, _stop)
    from tollkeeper.cli import main as tollkeeper
    from tollkeeper.quota.stores.sqlite.database_thread import Job

    _profile_jobs(thread._WorkItem)
    _profile_jobs(Job)

    tollkeeper()


if __name__ == "__main__":
    main()
