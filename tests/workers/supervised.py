"""A supervisor of two workers that serve nothing: `python -m workers.supervised WAY`.

The way says how a worker lives. Each process writes what happens to standard output.
"""

import os
import signal
import sys
import time
from unittest import mock

from tollkeeper.telemetry.logging import configure_logging
from tollkeeper.workers import supervisor as module
from tollkeeper.workers.listeners import bind, bind_for_workers
from tollkeeper.workers.supervisor import Supervisor, Worker

FINAL_CODE = 2
STARTUP_FAILURE = 3


FROZEN_S = 3_600.0


class JumpingClock:
    """The clock of a supervisor, who finds with SIGUSR1 that it was frozen for an hour. It writes that it is read."""

    def __init__(self) -> None:
        self._jumped_s = 0.0
        self._reads = 0
        signal.signal(signal.SIGUSR1, lambda *_: self._jump())

    def _jump(self) -> None:
        self._jumped_s, self._reads = FROZEN_S, 0
        say("jumped")

    def monotonic(self) -> float:
        self._reads += 1
        if self._reads == 50:
            say("polled")
        return time.monotonic() + self._jumped_s


def main(way: str) -> int:
    configure_logging("info")
    module.FIRST_PAUSE_S = 0.05
    if way == "second_hangs":
        module.HUNG_S, module.POLL_S = 3.0, 0.05
    if way == "is_frozen":
        module.POLL_S = 0.01
        with mock.patch.object(module, "time", JumpingClock()):
            return supervise(way)
    return supervise(way)


def supervise(way: str) -> int:
    listeners = bind_for_workers("127.0.0.1", 0, 2)
    port = listeners[0].getsockname()[1]
    supervisor = Supervisor(
        listeners,
        bind=lambda: bind("127.0.0.1", port, shared=True),
        on_end=lambda pid: say(f"noted {pid}"),
        final_codes=frozenset({FINAL_CODE}),
    )
    found = supervisor.run()
    return found if isinstance(found, int) else work(found, way)


def work(worker: Worker, way: str) -> int:
    if way == "never_ready":
        return STARTUP_FAILURE
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: received.append(number))
    worker.report_alive()
    say(f"ready {worker.number} {os.getpid()} {worker.replaced} {worker.reloads} {worker.listener.fileno() >= 0}")
    if way == "second_fails" and worker.number == 2:
        return 1
    if way == "second_is_final" and worker.number == 2:
        return FINAL_CODE
    worker.accept_signals()
    return wait_for_the_end(worker, received, way)


def wait_for_the_end(worker: Worker, received: list[int], way: str) -> int:
    """Until SIGTERM, or the end of the supervisor."""
    worker.channel.settimeout(0.02)
    while signal.SIGTERM not in received:
        if way != "is_frozen" and (way != "second_hangs" or worker.number == 1):
            worker.report_alive()
        try:
            is_alone = worker.channel.recv(1) == b""
        except TimeoutError:
            continue
        except ConnectionResetError:  # the supervisor had not read that this worker was ready
            is_alone = True
        if is_alone:
            say(f"alone {os.getpid()}")
            return 0
    if way == "waits_for_interrupt":
        say(f"drains {worker.number}")
        while signal.SIGINT not in received:
            signal.pause()
    say(f"ended {worker.number} {','.join(str(int(number)) for number in received)}")
    return 5 if way == "ends_with_5" else 0


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
