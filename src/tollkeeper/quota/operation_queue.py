"""The queue of the journal: batches of operations, and apart from them the suspects, which run alone."""

import asyncio
import math
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain

from tollkeeper.quota.queued_operation import QueuedOperation
from tollkeeper.quota.rules.operations import Reserve

MAX_BATCH = 512
"""Operations in one transaction."""
SUSPICION_S = 1.0
"""How long the next calls of a user are suspects, after one of them did not get a lock."""


class OperationQueue:
    """Operations in the order in which they were queued, and suspects in a queue of their own.

    A suspect did not get a lock, and the row that is locked is not known; or its user had such a call a moment ago. Its
    batch has no other operation, so that none waits with it.
    """

    def __init__(self) -> None:
        self._queue: deque[QueuedOperation] = deque()
        self._suspects: deque[QueuedOperation] = deque()
        self._suspect_users: dict[int, float] = {}
        self._is_suspects_turn = False

    def __len__(self) -> int:
        return len(self._queue) + len(self._suspects)

    def __iter__(self) -> Iterator[QueuedOperation]:
        return chain(self._queue, self._suspects)

    def append(self, queued: QueuedOperation) -> None:
        """Add an operation at the end of its queue."""
        operation = queued.operation
        if isinstance(operation, Reserve) and self._suspect_users.get(operation.caller.user_id, 0.0) > queued.since:
            queued.suspect_tries = max(queued.suspect_tries, 1)
        (self._suspects if queued.is_suspect else self._queue).append(queued)

    def extend(self, batch: Iterable[QueuedOperation]) -> None:
        """Add operations at the end of their queues."""
        for queued in batch:
            self.append(queued)

    def put_back(self, batch: list[QueuedOperation]) -> None:
        """Add operations in front of all others, in this order, after an outage."""
        self._queue.extendleft(reversed(batch))

    def note_result(self, queued: QueuedOperation, now: float, *, blocked: bool) -> None:
        """After the try of an operation: whether it did not get a lock. `now` is the event loop's time."""
        if queued.is_suspect and isinstance(queued.operation, Reserve):
            user_id = queued.operation.caller.user_id
            self._suspect_users = {user: until for user, until in self._suspect_users.items() if until > now}
            self._suspect_users.pop(user_id, None)
            if blocked:
                self._suspect_users[user_id] = now + SUSPICION_S

    def next_batch(self) -> list[QueuedOperation]:
        """Remove and return the next operations, in `BatchOrder`; in every other turn one suspect, if there is one.

        A withdrawn reserve that may be committed becomes its release.
        """
        batch: list[QueuedOperation] = []
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._is_suspects_turn = bool(self._suspects) and not (self._is_suspects_turn and self._queue)
        queue = self._suspects if self._is_suspects_turn else self._queue
        while queue and len(batch) < MAX_BATCH:
            if queue[0].is_alone and batch:
                break
            queued = queue.popleft()
            if not queued.is_withdrawn:
                queued.note_start(now)
                batch.append(queued)
                if queued.is_alone:
                    break
            elif (release := queued.closing) is not None:
                batch.append(QueuedOperation(release, loop.create_future(), now, math.inf))
        batch.sort(key=lambda queued: queued.operation.order)
        return batch
