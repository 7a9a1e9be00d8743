"""The state machine with idempotency keys: the same rules, and those of calls that are repeated."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from ledger_machine import LedgerMachine, call_terms, fates, owners, picks, usages
from ledger_model import CallTerms
from ledger_world import Fate
from side_by_side import Move

keyed_calls = st.tuples(st.sampled_from(["a", "a", "b"]), st.sampled_from(["one", "one", "one", "another"]))


class KeyedMachine(LedgerMachine):
    """A subclass names the world."""

    def first_call(self, number: int, terms: CallTerms) -> Move:
        return self.both.reserving(
            number % 2, terms, dispatch=number % 3 > 0, keyed_call=("ab"[number // 2 % 2], "one")
        )

    @rule(owner=owners, terms=call_terms(), keyed_call=keyed_calls, dispatch=st.booleans(), fate=fates)
    def reserve_with_a_key(
        self, owner: int, terms: CallTerms, keyed_call: tuple[str, str], dispatch: bool, fate: Fate
    ) -> None:
        self.both.make([self.both.reserving(owner, terms, dispatch=dispatch, keyed_call=keyed_call)], fate)

    @rule(owners_and_terms=st.lists(st.tuples(owners, call_terms(), keyed_calls), min_size=2, max_size=5), fate=fates)
    def reserve_several_with_keys(
        self, owners_and_terms: list[tuple[int, CallTerms, tuple[str, str]]], fate: Fate
    ) -> None:
        moves = [
            self.both.reserving(owner, terms, dispatch=True, keyed_call=keyed_call)
            for owner, terms, keyed_call in owners_and_terms
        ]
        self.both.make(moves, fate)

    @precondition(lambda self: self.both.keyed())
    @rule(pick=picks, terms=call_terms(), request=st.sampled_from(["one", "one", "another"]), fate=fates)
    def reserve_again_with_a_key(self, pick: int, terms: CallTerms, request: str, fate: Fate) -> None:
        _, owner, key = self.both.pick_keyed(pick)
        self.both.make([self.both.reserving(owner, terms, dispatch=True, keyed_call=(key, request))], fate)

    @precondition(lambda self: self.both.keyed())
    @rule(pick=picks, terms=call_terms(), fate=fates)
    def extend_with_a_key(self, pick: int, terms: CallTerms, fate: Fate) -> None:
        call_id, _, key = self.both.pick_keyed(pick)
        self.both.make([self.both.extending(call_id, terms, (key, "one"))], fate)

    @precondition(lambda self: self.both.keyed())
    @rule(
        pick=picks,
        usage=usages,
        stored=st.sampled_from(["stored", "stored", "stored", "nothing", "too long"]),
        fate=fates,
    )
    def settle_and_store(self, pick: int, usage: tuple[int, int, int], stored: str, fate: Fate) -> None:
        call_id, _, key = self.both.pick_keyed(pick)
        self.both.make([self.both.storing(call_id, key, usage, stored)], fate)

    @precondition(lambda self: self.both.keyed())
    @rule(pick=picks, other=picks, usage=usages, terms=call_terms(), fate=fates)
    def store_and_repeat_at_once(
        self, pick: int, other: int, usage: tuple[int, int, int], terms: CallTerms, fate: Fate
    ) -> None:
        """Also by a call that has never had the key."""
        call_id, owner, key = self.both.pick_keyed(pick)
        moves = [
            self.both.reserving(owner, terms, dispatch=True, keyed_call=(key, "one")),
            self.both.storing(self.both.pick(other), key, usage, "stored"),
            self.both.storing(call_id, key, usage, "stored"),
            self.both.reserving(owner, terms, dispatch=True, keyed_call=(key, "one")),
        ]
        self.both.make(moves, fate)

    @precondition(lambda self: self.both.model.keys)
    @rule(a_day_later=st.booleans())
    def delete_old_keys(self, a_day_later: bool) -> None:
        self.both.at(self.both.model.now + a_day_later * 24 * 3_600_000)
        mine = self.both.model.delete_old_keys()
        assert self.both.world.delete_old_keys(self.both.process, 10**6) >= mine
