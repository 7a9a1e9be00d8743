"""Limits the memory that request bodies take at a time: per user, and in the whole process."""

from types import TracebackType

from tollkeeper.errors import Overloaded, RateLimited

MIB = 1024 * 1024
MAX_BYTES_PER_USER = 64 * MIB
MAX_BYTES_IN_TOTAL = 512 * MIB
RETRY_AFTER_S = 1


class BodyBudget:
    """Counts the bytes of the bodies of all calls in flight. A body counts until its call ends."""

    def __init__(self, max_per_user: int = MAX_BYTES_PER_USER, max_in_total: int = MAX_BYTES_IN_TOTAL) -> None:
        self._max_per_user = max_per_user
        self._max_in_total = max_in_total
        self._bytes_of: dict[int, int] = {}
        self._total_bytes = 0

    def count(self, user_id: int) -> "CountedBody":
        """A context manager that counts the body of one call of this user until the block ends."""
        return CountedBody(self, user_id)

    def add(self, user_id: int, size: int) -> None:
        """Raises RateLimited if this user's bodies are too large together, Overloaded if those of all users are."""
        user_bytes = self._bytes_of.get(user_id, 0) + size
        if user_bytes > self._max_per_user:
            raise RateLimited(
                "The bodies of this user's calls in flight are too large together. Try again in a moment.",
                retry_after_s=RETRY_AFTER_S,
            )
        if self._total_bytes + size > self._max_in_total:
            raise Overloaded(retry_after_s=RETRY_AFTER_S)
        self._bytes_of[user_id] = user_bytes
        self._total_bytes += size

    def subtract(self, user_id: int, size: int) -> None:
        self._total_bytes -= size
        self._bytes_of[user_id] -= size
        if not self._bytes_of[user_id]:
            del self._bytes_of[user_id]


class CountedBody:
    """The bytes of one body, counted against the budget."""

    __slots__ = ("_budget", "_size", "_user_id")

    def __init__(self, budget: BodyBudget, user_id: int) -> None:
        self._budget = budget
        self._user_id = user_id
        self._size = 0

    def __enter__(self) -> "CountedBody":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._size:
            self._budget.subtract(self._user_id, self._size)

    def grow(self, size: int) -> None:
        """Add `size` bytes that were received. Raises RateLimited, Overloaded."""
        self._budget.add(self._user_id, size)
        self._size += size
