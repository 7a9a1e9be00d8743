"""The one thread that uses a SQLite connection.

It costs a third of what an executor costs, because it wakes the event loop once for each job and takes no further lock.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

Result = TypeVar("Result")


class Job(NamedTuple):
    """A function to call in the thread, and who waits for it."""

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def run(self) -> None:
        """Call the function, and pass what it returns or raises to the event loop."""
        result: Any = None
        error: BaseException | None = None
        try:
            result = self.function(*self.arguments)
        except StopIteration as raised:  # a future cannot have it
            error = RuntimeError(f"the job raised {raised!r}")
        except BaseException as raised:
            error = raised
        with suppress(RuntimeError):  # the event loop is closed, so no caller waits
            self.loop.call_soon_threadsafe(_resolve, self.future, result, error)
        del result, error  # an error refers to this frame


class DatabaseThread:
    """Runs functions one after the other. It starts with the first one, and ends with `close` or the process."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(self, function: Callable[..., Result], *arguments: Any) -> "asyncio.Future[Result]":
        """Call a function in the thread. The future has what it returns or raises.

        The function is called even if the future is cancelled before its turn.
        """
        loop = asyncio.get_running_loop()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        future: asyncio.Future[Result] = loop.create_future()
        self._jobs.put(Job(loop, future, function, arguments))
        return future

    def close(self) -> None:
        """End the thread after the jobs that are queued, and wait for that."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()
            del job  # while the thread waits, nothing of the job stays in memory


def _resolve(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
