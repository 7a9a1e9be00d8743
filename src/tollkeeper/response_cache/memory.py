"""The answers that one process keeps, in memory only: least recently used ones go first, and all after some time."""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, TypeVar

from tollkeeper.response_cache.questions import CacheScope, Owner

ENTRY_BYTES = 1_000
"""What an entry takes beside its content, about."""

Answer = TypeVar("Answer")


class _Entry(NamedTuple, Generic[Answer]):
    owner: Owner
    answer: Answer
    size: int
    kept_at: float


class ResponseCache(Generic[Answer]):
    """Answers by the keys of their questions, for `seconds`, at most `max_bytes` of them; with 0 bytes, it is off.

    `generation` rises whenever all answers are removed: those of calls that began before are not kept. `hits`, `misses`
    and `joined` count the calls that were answered from it, that were not, and that another running call has answered;
    `waiting` is how many wait for another one now.
    """

    def __init__(self, *, max_bytes: int, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._now = now
        self._entries: OrderedDict[bytes, _Entry[Answer]] = OrderedDict()
        self._scopes: Mapping[int, CacheScope] = {}
        self.bytes = self.generation = 0
        self.hits = self.misses = self.joined = self.waiting = 0

    def __len__(self) -> int:
        return len(self._entries)

    def configure(self, scopes: Mapping[int, CacheScope]) -> None:
        """Set the scopes that tenants have chosen, and remove all answers: what allowed one may have changed."""
        self._scopes = scopes
        self.clear()

    def clear(self) -> None:
        """Remove all answers."""
        self._entries.clear()
        self.bytes = 0
        self.generation += 1

    def owner_for(self, tenant_id: int, user_id: int, *, wanted: bool | None) -> Owner | None:
        """Whose answers a call may receive; None if it is not to be answered from the cache.

        `wanted` is what the call says; None leaves it to the tenant.
        """
        if wanted is False or not self._max_bytes:
            return None
        scope = self._scopes.get(tenant_id, CacheScope.OFF)
        if scope is CacheScope.OFF and not wanted:
            return None
        return Owner(tenant_id, None if scope is CacheScope.TENANT else user_id)

    def get(self, owner: Owner, key: bytes) -> tuple[Answer, float] | None:
        """The answer that the owner may receive, and its age in seconds; None if there is none."""
        entry = self._entries.get(key)
        if entry is None or entry.owner != owner:
            return None
        age_s = self._now() - entry.kept_at
        if age_s >= self._seconds:
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return entry.answer, age_s

    def put(self, owner: Owner, key: bytes, answer: Answer, *, size: int, generation: int) -> None:
        """Keep an answer of `size` bytes to a question that was asked in this `generation`."""
        size += ENTRY_BYTES
        if generation != self.generation or size > self._max_bytes:
            return
        self._remove(key)
        self._entries[key] = _Entry(owner, answer, size, self._now())
        self.bytes += size
        while self.bytes > self._max_bytes:
            self._remove(next(iter(self._entries)))

    def _remove(self, key: bytes) -> None:
        if (entry := self._entries.pop(key, None)) is not None:
            self.bytes -= entry.size
