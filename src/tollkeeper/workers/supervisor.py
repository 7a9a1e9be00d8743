"""Runs worker processes, and replaces those that end.

The supervisor is one thread that waits for signals. It has no event loop, and what it has loaded is shared by all
workers: each is a fork of it. A worker that has just ended keeps its socket, whose connections wait for its successor;
one that ends again and again waits longer and longer, and its socket is closed meanwhile, so that the others get its
connections.
"""

import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog

from tollkeeper.errors import ConfigurationError
from tollkeeper.server.sockets import let_connections_open
from tollkeeper.terminal import Terminal

log = structlog.get_logger("tollkeeper.workers")

ALIVE, STOPPING = b"a", b"s"
"""What a worker sends to the supervisor: that it serves, each second, as long as its event loop is free; and that it
stops, after which it may be silent."""
HUNG_S = 60.0
"""A worker that serves and is silent for so long is killed: its event loop is blocked, or the process is frozen."""
SHORT_LIFE_S = 10.0
"""A worker that ends earlier after its start has failed to start."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""How long the supervisor waits before it replaces a worker that has failed to start; doubled each time."""
POLL_S = 1.0
_WATCHED = frozenset({signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})

Bind = Callable[[], socket.socket]


@dataclass(frozen=True, slots=True)
class Worker:
    """What a worker process knows of itself: its number, from 1, its socket, and how many workers were replaced so far.

    `channel` is its connection to the supervisor, which ends with the supervisor. `reloads` says that the supervisor
    has received SIGHUP since its start: what it has loaded is out of date.
    """

    number: int
    listener: socket.socket
    channel: socket.socket
    replaced: int
    reloads: bool

    def report_alive(self) -> None:
        """Tell the supervisor that this worker serves."""
        self._report(ALIVE)

    def report_stop(self) -> None:
        """Tell the supervisor that this worker stops. It takes as long as its calls do."""
        self._report(STOPPING)

    def _report(self, what: bytes) -> None:
        with suppress(OSError):  # the supervisor is frozen or gone
            self.channel.send(what, socket.MSG_DONTWAIT)

    def accept_signals(self) -> None:
        """Receive the signals that were sent since the fork, and further ones."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)


class _Place:
    """One of the numbered places for a worker, with the process that has it now, if any."""

    def __init__(self, number: int, listener: socket.socket) -> None:
        self.number = number
        self.listener: socket.socket | None = listener
        self.channel: socket.socket | None = None
        self.pid: int | None = None
        self.started_at = 0.0
        self.due_at = 0.0
        self.failures = 0
        self.was_ready = False
        """Whether the process has reported that it serves."""
        self._reported_at = 0.0
        self._stops = False

    def begin(self) -> socket.socket:
        """Note the start of a process. Returns its end of the channel."""
        self.channel, end = socket.socketpair()
        self.started_at = time.monotonic()
        self.was_ready = self._stops = False
        return end

    def listen(self) -> None:
        """Receive what the process has reported since the last time."""
        received = b""
        with suppress(OSError):
            received = self.channel.recv(4096, socket.MSG_DONTWAIT) if self.channel is not None else b""
        if received:
            self.was_ready = True
            self._stops = self._stops or STOPPING in received
            self.excuse()

    def excuse(self) -> None:
        """Begin to count the silence of the process anew."""
        self._reported_at = time.monotonic()

    @property
    def silent_s(self) -> float:
        """For how long a process that serves has reported nothing."""
        return time.monotonic() - self._reported_at if self.was_ready and not self._stops else 0.0

    def close_listener(self) -> None:
        if self.listener is not None:
            self.listener.close()
            self.listener = None

    def close_channel(self) -> None:
        if self.channel is not None:
            self.channel.close()
            self.channel = None


class Supervisor:
    """Keeps a worker in each place. `bind` makes a socket anew; `on_end` is called with the id of an ended process.

    An end with one of the `final_codes` is one that a new start does not heal: the server ends with this code.
    """

    def __init__(
        self, listeners: Sequence[socket.socket], bind: Bind, on_end: Callable[[int], None], final_codes: frozenset[int]
    ) -> None:
        self._places = [_Place(number, listener) for number, listener in enumerate(listeners, 1)]
        self._bind = bind
        self._on_end = on_end
        self._final_codes = final_codes
        self._replaced = 0
        self._reloads = False
        self._terminal = Terminal()
        self._stops = False
        self._any_was_ready = False  # until then, an end is a failure of the start of the server
        self._code = 0
        self._listened_at = time.monotonic()

    def run(self) -> Worker | int:
        """Returns twice: a Worker in each worker process, and in the supervisor the exit code once all have ended."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        while True:
            for place in self._places:
                if self._is_due(place) and (worker := self._start(place)) is not None:
                    return worker
            if self._stops and all(place.pid is None for place in self._places):
                return self._code
            received = signal.sigtimedwait(_WATCHED, self._wait_s())
            self._pass_on(received.si_signo if received is not None else None)
            self._listen()
            for place in self._places:
                self._reap(place)

    def _listen(self) -> None:
        """Receive the reports of all workers. If the supervisor was frozen, say with them, their silence is excused."""
        was_frozen = time.monotonic() - self._listened_at > HUNG_S / 2
        for place in self._places:
            if was_frozen:
                place.excuse()
            place.listen()
            self._any_was_ready = self._any_was_ready or place.was_ready
        self._listened_at = time.monotonic()

    def _is_due(self, place: _Place) -> bool:
        return not self._stops and place.pid is None and place.due_at <= time.monotonic()

    def _wait_s(self) -> float:
        now = time.monotonic()
        pauses = [place.due_at - now for place in self._places if place.pid is None and not self._stops]
        return max(0.0, min([POLL_S, *pauses]))

    def _start(self, place: _Place) -> Worker | None:
        """Fork a worker. Returns what it knows of itself in the worker, None in the supervisor."""
        if place.listener is None:
            try:
                place.listener = self._bind()
            except ConfigurationError as error:
                self._postpone(place, error.detail)
                return None
        listener, end = place.listener, place.begin()
        let_connections_open(listener)  # the worker before it may have stopped of its own accord
        pid = os.fork()
        if pid == 0:
            for other in self._places:
                other.close_channel()  # else it would not end with the supervisor
                if other is not place:
                    other.close_listener()
            return Worker(place.number, listener, end, self._replaced, self._reloads)
        end.close()
        place.pid = pid
        log.info("worker.started", worker=place.number, pid=pid)
        return None

    def _pass_on(self, number: int | None) -> None:
        """Send a signal on to the workers.

        A terminal sends SIGINT to all processes. A worker that stops takes a second one as a demand to stop at once,
        so the first is passed on as SIGTERM.
        """
        if number == signal.SIGINT and self._stops:
            self._send(signal.SIGINT)
        elif number in (signal.SIGTERM, signal.SIGINT) or (number == signal.SIGHUP and self._terminal.is_gone):
            self._stop()
        elif number == signal.SIGHUP:
            self._reloads = True
            self._send(signal.SIGHUP)

    def _stop(self) -> None:
        """End all workers. Connections are refused as soon as the workers have closed their sockets, too."""
        self._stops = True
        for place in self._places:
            place.close_listener()
        self._send(signal.SIGTERM)

    def _send(self, number: signal.Signals) -> None:
        for place in self._places:
            if place.pid is not None:
                os.kill(place.pid, number)

    def _reap(self, place: _Place) -> None:
        """Find out whether the process of this place has ended, and what follows from that."""
        if place.pid is None:
            return
        pid, status = os.waitpid(place.pid, os.WNOHANG)
        if pid == 0:
            if place.silent_s > HUNG_S and not self._stops:
                log.error("worker.hung", worker=place.number, pid=place.pid, seconds=round(place.silent_s, 1))
                os.kill(place.pid, signal.SIGKILL)
            return
        code = os.waitstatus_to_exitcode(status)
        place.pid = None
        place.close_channel()
        self._on_end(pid)
        if self._stops:
            self._code = self._code or _exit_code(code)
        elif code in self._final_codes or not self._any_was_ready:
            log.error("worker.failed", worker=place.number, pid=pid, exit=code)
            self._code = _exit_code(code) or 1
            self._stop()
        else:
            self._replace(place, pid, code)

    def _replace(self, place: _Place, pid: int, code: int) -> None:
        self._replaced += 1
        lived_s = time.monotonic() - place.started_at
        log.warning("worker.ended", worker=place.number, pid=pid, exit=code, lived_s=round(lived_s, 3))
        if place.was_ready and lived_s >= SHORT_LIFE_S:
            place.failures = 0
        place.failures += 1
        if place.failures == 1:
            place.due_at = 0.0  # a first end, say of a process that was killed, costs no time
        else:
            self._postpone(place, "it ended soon after its start")

    def _postpone(self, place: _Place, reason: str) -> None:
        """Wait before the next start. Meanwhile the other workers get the connections."""
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** max(0, place.failures - 2))
        place.due_at = time.monotonic() + pause_s
        place.close_listener()
        log.error("worker.postponed", worker=place.number, seconds=pause_s, reason=reason)


def _exit_code(code: int) -> int:
    """The exit code of a process for one of its workers: as shells do, 128 and its number for a signal."""
    return code if code >= 0 else 128 - code
