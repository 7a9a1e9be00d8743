"""How much of what callers send is held in memory at a time: per user, and in all of a process."""

from types import TracebackType

from tollkeeper.errors import Overloaded, RateLimited

MIB = 1024 * 1024
MAX_BYTES_PER_USER = 64 * MIB
MAX_BYTES_IN_TOTAL = 512 * MIB
RETRY_AFTER_S = 1


class BodyBudget:
    """The bytes of bodies whose calls are not over. A body counts for what has come of it."""

    def __init__(self, most_of_one: int = MAX_BYTES_PER_USER, most_in_all: int = MAX_BYTES_IN_TOTAL) -> None:
        self._most_of_one = most_of_one
        self._most_in_all = most_in_all
        self._of: dict[int, int] = {}
        self._in_all = 0

    def of(self, user_id: int) -> "Hold":
        """What one call of this user holds, until the block ends."""
        return Hold(self, user_id)

    def take(self, user_id: int, size: int) -> None:
        """Raises RateLimited where this user holds too much, Overloaded where all together do."""
        held = self._of.get(user_id, 0) + size
        if held > self._most_of_one:
            raise RateLimited("The calls of this user in flight have too large bodies.", retry_after_s=RETRY_AFTER_S)
        if self._in_all + size > self._most_in_all:
            raise Overloaded(retry_after_s=RETRY_AFTER_S)
        self._of[user_id] = held
        self._in_all += size

    def give_back(self, user_id: int, size: int) -> None:
        self._in_all -= size
        self._of[user_id] -= size
        if not self._of[user_id]:
            del self._of[user_id]


class Hold:
    """The bytes of one body."""

    __slots__ = ("_bodies", "_size", "_user_id")

    def __init__(self, bodies: BodyBudget, user_id: int) -> None:
        self._bodies = bodies
        self._user_id = user_id
        self._size = 0

    def __enter__(self) -> "Hold":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._size:
            self._bodies.give_back(self._user_id, self._size)

    def grow(self, size: int) -> None:
        """So many bytes more have come. Raises RateLimited, Overloaded."""
        self._bodies.take(self._user_id, size)
        self._size += size
