"""The model of the ledger with idempotency keys: one call for a key, and its answer again for a day."""

from dataclasses import dataclass

from ledger_model import Account, Ask, Call, Model, Outcome, Place

DAY_MS = 24 * 3_600_000

Attempt = tuple[str, str]
"""A key, and what the request says."""


@dataclass
class Key:
    """What a key stands for: one call, and the answer that was kept."""

    call: str
    request: str
    born: int
    answer: str | None = None


class KeyedModel(Model):
    def __init__(self, now: int, accounts: dict[int, Account]) -> None:
        super().__init__(now, accounts)
        self.keys: dict[tuple[int, str], Key] = {}

    def attempt(
        self,
        call_id: str,
        user: int,
        tenant: int,
        version: int,
        ask: Ask,
        lease: int,
        state: str,
        attempt: Attempt,
    ) -> Outcome:
        """A reserve with a key."""
        places = self.places_of(user)
        if call_id in self.calls and self.calls[call_id].basis == "cache":
            before = self._before(user, attempt)
            return self._repeated(before, places) if isinstance(before, Key) else before or "LedgerUnavailable"
        if call_id not in self.calls and self.accepts(user, tenant, version):
            before = self._before(user, attempt)
            if isinstance(before, str):
                return before
            if before is not None:
                call = Call(user, ask._replace(input=0), [], 0, "settled", self.now + lease, (0, 0))
                call.ended_by, call.basis = "settle", "cache"
                self.calls[call_id] = call
                return self._repeated(before, places)
        known = call_id in self.calls
        outcome = self.reserve(call_id, user, tenant, version, ask, lease, state)
        if call_id in self.calls and not known:
            self.keys[user, attempt[0]] = Key(call_id, attempt[1], self.now)
        return outcome

    def attempt_further(
        self,
        failed: str,
        call_id: str,
        user: int,
        tenant: int,
        version: int,
        ask: Ask,
        lease: int,
        attempt: Attempt,
    ) -> Outcome:
        """The failed attempt is released, whatever becomes of the next; another call's answer is not this one's."""
        self.places_of(user)
        self.end(failed, "release", "none", (0, 0, 0))
        if call_id not in self.calls and isinstance(self._before(user, attempt), Key):
            return "IdempotencyInFlight"
        return self.attempt(call_id, user, tenant, version, ask, lease, "dispatched", attempt)

    def keep(self, call_id: str, key: str, usage: tuple[int, int, int], *, kept: bool) -> Outcome:
        """A settle: its answer is kept under the key of its call, and under no other."""
        ending = self.end(call_id, "settle", "provider", usage)
        call = self.calls[call_id]
        row = self.keys.get((call.user, key))
        if kept and row is not None and row.call == call_id and isinstance(ending, tuple):
            row.answer = f"{call_id} {call.cost['tokens']}"
        return ending

    def forget_keys(self) -> int:
        """Those that are a day old."""
        old = [name for name, key in self.keys.items() if self.now >= key.born + DAY_MS]
        for name in old:
            del self.keys[name]
        return len(old)

    def _before(self, user: int, attempt: Attempt) -> str | Key | None:
        """What the key says: the refusal, the call whose answer is given again, or nothing that counts."""
        key = self.keys.get((user, attempt[0]))
        if key is None or self.now >= key.born + DAY_MS:
            return None
        call = self.calls[key.call]
        if call.state == "released" or call.basis == "none":
            return None
        if key.request != attempt[1]:
            return "IdempotencyMismatch"
        if call.ended_by is None:
            return "IdempotencyInFlight"
        return "PreviousAttemptInterrupted" if key.answer is None else key

    def _repeated(self, key: Key, places: list[Place]) -> Outcome:
        return "replayed", 200, key.answer, tuple(sorted(map(self.shown, places)))
