"""The jobs that this process runs, and the signal that a new one waits."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tollkeeper.gateway.cache_status import CacheStatus
from tollkeeper.providers.base import StreamChunk
from tollkeeper.quota.reservation import Reservation


class JobListener:
    """Takes the place of a client: it receives nothing, and leaves when the job is cancelled."""

    def __init__(self) -> None:
        self.left = False
        self.cache_status: CacheStatus | None = None
        self._on_disconnect: Callable[[], None] | None = None

    def attach(self, on_disconnect: Callable[[], None], reservation: Reservation) -> None:
        self._on_disconnect = on_disconnect
        if self.left:  # the attempt has yet to begin, and can only be ended from outside
            asyncio.get_running_loop().call_soon(on_disconnect)

    async def deliver(self, chunk: StreamChunk) -> None:
        pass

    def ping(self) -> None:
        pass

    def leave(self) -> None:
        """The user has cancelled the job."""
        self.left = True
        if self._on_disconnect is not None:
            self._on_disconnect()


class RunningJobs:
    """`woken` is set when a job of this process waits to be started, or a running one has ended."""

    def __init__(self) -> None:
        self.woken = asyncio.Event()
        self._listeners: dict[str, JobListener] = {}

    def __len__(self) -> int:
        return len(self._listeners)

    @property
    def ids(self) -> list[str]:
        return list(self._listeners)

    @contextmanager
    def running(self, job_id: str) -> Iterator[JobListener]:
        """The job runs for the length of the block."""
        listener = self._listeners[job_id] = JobListener()
        try:
            yield listener
        finally:
            del self._listeners[job_id]

    def cancel(self, job_id: str) -> None:
        """Cancel a job, if this process runs it."""
        if (listener := self._listeners.get(job_id)) is not None and not listener.left:
            listener.leave()
