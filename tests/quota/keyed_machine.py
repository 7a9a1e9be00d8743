"""The state machine with idempotency keys: the same rules, and those of calls that are repeated."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from ledger_machine import LedgerMachine, asks, fates, owners, picks, usages
from ledger_model import Ask
from ledger_world import Fate
from side_by_side import Move

attempts = st.tuples(st.sampled_from(["a", "a", "b"]), st.sampled_from(["one", "one", "one", "another"]))


class KeyedMachine(LedgerMachine):
    """A subclass names the world."""

    def first_call(self, number: int, ask: Ask) -> Move:
        return self.both.reserving(number % 2, ask, dispatch=number % 3 > 0, attempt=("ab"[number // 2 % 2], "one"))

    @rule(owner=owners, ask=asks(), attempt=attempts, dispatch=st.booleans(), fate=fates)
    def reserve_with_a_key(self, owner: int, ask: Ask, attempt: tuple[str, str], dispatch: bool, fate: Fate) -> None:
        self.both.make([self.both.reserving(owner, ask, dispatch=dispatch, attempt=attempt)], fate)

    @rule(asks_=st.lists(st.tuples(owners, asks(), attempts), min_size=2, max_size=5), fate=fates)
    def reserve_several_with_keys(self, asks_: list[tuple[int, Ask, tuple[str, str]]], fate: Fate) -> None:
        moves = [self.both.reserving(owner, ask, dispatch=True, attempt=attempt) for owner, ask, attempt in asks_]
        self.both.make(moves, fate)

    @precondition(lambda self: self.both.keyed())
    @rule(pick=picks, ask=asks(), request=st.sampled_from(["one", "one", "another"]), fate=fates)
    def reserve_again_with_a_key(self, pick: int, ask: Ask, request: str, fate: Fate) -> None:
        _, owner, key = self.both.pick_keyed(pick)
        self.both.make([self.both.reserving(owner, ask, dispatch=True, attempt=(key, request))], fate)

    @precondition(lambda self: self.both.keyed())
    @rule(pick=picks, ask=asks(), fate=fates)
    def extend_with_a_key(self, pick: int, ask: Ask, fate: Fate) -> None:
        call_id, _, key = self.both.pick_keyed(pick)
        self.both.make([self.both.extending(call_id, ask, (key, "one"))], fate)

    @precondition(lambda self: self.both.keyed())
    @rule(pick=picks, usage=usages, kept=st.sampled_from(["kept", "kept", "kept", "nothing", "too long"]), fate=fates)
    def settle_and_keep(self, pick: int, usage: tuple[int, int, int], kept: str, fate: Fate) -> None:
        call_id, _, key = self.both.pick_keyed(pick)
        self.both.make([self.both.keeping(call_id, key, usage, kept)], fate)

    @precondition(lambda self: self.both.keyed())
    @rule(pick=picks, other=picks, usage=usages, ask=asks(), fate=fates)
    def keep_and_repeat_at_once(self, pick: int, other: int, usage: tuple[int, int, int], ask: Ask, fate: Fate) -> None:
        """Also by a call that has never had the key."""
        call_id, owner, key = self.both.pick_keyed(pick)
        moves = [
            self.both.reserving(owner, ask, dispatch=True, attempt=(key, "one")),
            self.both.keeping(self.both.pick(other), key, usage, "kept"),
            self.both.keeping(call_id, key, usage, "kept"),
            self.both.reserving(owner, ask, dispatch=True, attempt=(key, "one")),
        ]
        self.both.make(moves, fate)

    @precondition(lambda self: self.both.model.keys)
    @rule(a_day_later=st.booleans())
    def forget_keys(self, a_day_later: bool) -> None:
        self.both.at(self.both.model.now + a_day_later * 24 * 3_600_000)
        mine = self.both.model.forget_keys()
        assert self.both.world.forget_keys(self.both.process, 10**6) >= mine
