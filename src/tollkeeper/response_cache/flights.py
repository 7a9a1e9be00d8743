"""Single flight: of calls with the same question at the same time, one asks the provider, and the others wait."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class Flight(Generic[Answer]):
    """A question that is being asked. `followers` calls wait for its answer."""

    def __init__(self) -> None:
        self._landed: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self.followers = 0
        self.on_abandoned: Callable[[], object] | None = None
        """Called when the last follower no longer waits."""

    async def wait(self, seconds: float) -> Answer | None:
        """The answer; None if there is none that others may have, or not within this time."""
        self.followers += 1
        try:
            await asyncio.wait([self._landed], timeout=seconds)
        finally:
            self.followers -= 1
            if not self.followers and self.on_abandoned is not None:
                self.on_abandoned()
        return self._landed.result() if self._landed.done() else None

    def land(self, answer: Answer | None) -> None:
        """Give the followers the answer, or none. Only the first call counts."""
        if not self._landed.done():
            self._landed.set_result(answer)


class Flights(Generic[Answer]):
    """The questions that calls of this process are asking now, by key."""

    def __init__(self) -> None:
        self._flights: dict[bytes, Flight[Answer]] = {}

    def find(self, key: bytes) -> Flight[Answer] | None:
        """The flight of this question, if there is one."""
        return self._flights.get(key)

    @contextmanager
    def lead(self, key: bytes) -> Iterator[Flight[Answer]]:
        """Ask a question that no other call is asking. However the block ends, no follower waits any longer."""
        flight = self._flights[key] = Flight()
        try:
            yield flight
        finally:
            del self._flights[key]
            flight.on_abandoned = None
            flight.land(None)
