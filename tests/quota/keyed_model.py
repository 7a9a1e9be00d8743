"""The model of the ledger with idempotency keys: one call for a key, and its answer again for a day."""

from dataclasses import dataclass

from ledger_model import Account, Call, Caller, CallTerms, Model, Outcome, Place

DAY_MS = 24 * 3_600_000

KeyedCall = tuple[str, str]
"""An idempotency key, and the request."""


@dataclass
class Key:
    """The call and the stored response of a key."""

    call: str
    request: str
    created_ms: int
    response: str | None = None


class KeyedModel(Model):
    def __init__(self, now: int, accounts: dict[int, Account]) -> None:
        super().__init__(now, accounts)
        self.keys: dict[tuple[int, str], Key] = {}

    def reserve_with_key(
        self,
        call_id: str,
        caller: Caller,
        tenant: int,
        version: int,
        terms: CallTerms,
        lease: int,
        state: str,
        keyed_call: KeyedCall,
    ) -> Outcome:
        """A reserve with a key."""
        places = self.places_of(caller)
        if call_id in self.calls and self.calls[call_id].basis == "cache":
            before = self._before(caller.user, keyed_call)
            return self._repeated(before, places) if isinstance(before, Key) else before or "LedgerUnavailable"
        if call_id not in self.calls and self.denial(caller, tenant, version) is None:
            before = self._before(caller.user, keyed_call)
            if isinstance(before, str):
                return before
            if before is not None:
                call = Call(caller, terms._replace(input=0), [], 0, "settled", self.now + lease, (0, 0))
                call.ended_by, call.basis, call.group = "settle", "cache", self.group_of(caller)
                self.calls[call_id] = call
                return self._repeated(before, places)
        known = call_id in self.calls
        outcome = self.reserve(call_id, caller, tenant, version, terms, lease, state)
        if call_id in self.calls and not known:
            self.keys[caller.user, keyed_call[0]] = Key(call_id, keyed_call[1], self.now)
        return outcome

    def extend_with_key(
        self,
        failed: str,
        call_id: str,
        caller: Caller,
        tenant: int,
        version: int,
        terms: CallTerms,
        lease: int,
        keyed_call: KeyedCall,
    ) -> Outcome:
        """The failed attempt is released, whatever becomes of the next; another call's answer is not this one's. What
        the key says counts before the caller's access, which the first attempt had.
        """
        self.places_of(caller)
        self.end(failed, "release", "none", (0, 0, 0))
        if call_id not in self.calls and (before := self._before(caller.user, keyed_call)) is not None:
            return before if isinstance(before, str) else "IdempotencyInFlight"
        return self.reserve_with_key(call_id, caller, tenant, version, terms, lease, "dispatched", keyed_call)

    def settle_and_store(self, call_id: str, key: str, usage: tuple[int, int, int], *, stored: bool) -> Outcome:
        """A settle: its answer is kept under the key of its call, and under no other."""
        ending = self.end(call_id, "settle", "provider", usage)
        call = self.calls[call_id]
        row = self.keys.get((call.user, key))
        if stored and row is not None and row.call == call_id and isinstance(ending, tuple):
            row.response = f"{call_id} {call.cost['tokens']}"
        return ending

    def delete_old_keys(self) -> int:
        """Those that are a day old."""
        old = [name for name, key in self.keys.items() if self.now >= key.created_ms + DAY_MS]
        for name in old:
            del self.keys[name]
        return len(old)

    def _before(self, user: int, keyed_call: KeyedCall) -> str | Key | None:
        """What the key says: the refusal, the call whose answer is given again, or nothing that counts."""
        key = self.keys.get((user, keyed_call[0]))
        if key is None or self.now >= key.created_ms + DAY_MS:
            return None
        call = self.calls[key.call]
        if call.state == "released" or call.basis == "none":
            return None
        if key.request != keyed_call[1]:
            return "IdempotencyMismatch"
        if call.ended_by is None:
            return "IdempotencyInFlight"
        return "PreviousAttemptInterrupted" if key.response is None else key

    def _repeated(self, key: Key, places: list[Place]) -> Outcome:
        return "replayed", 200, key.response, tuple(sorted(map(self.shown, places)))
