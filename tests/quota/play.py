"""Directed scenarios: the moves of one, made on the ledger and on its model, with a comparison after each."""

from collections.abc import Callable
from itertools import count

from ledger_model import CallTerms, Outcome
from ledger_world import Fate, World
from side_by_side import IN_GROUP, LEASE_MS, WITH_KEY, Move, SideBySide

USER, COLLEAGUE, TENANT = 0, 1, 3
"""Two users of one tenant, and that tenant, as `SideBySide` numbers them."""
KEY, GROUP = WITH_KEY, IN_GROUP
"""The user's API key and the user's group: as the owners of quotas, and as callers."""
PRICES = (2_000_000, 1_000_000, 4_000_000)

_examples = count(10**6)
"""Apart from the state machines' numbers."""


class Play:
    """The people of one example, and the moves by which a scenario is written."""

    def __init__(self, world: World) -> None:
        self.both = SideBySide(world, next(_examples))

    def make(self, *moves: Move, fate: Fate = Fate.LANDS) -> list[Outcome]:
        """Make moves in one transaction. Raises AssertionError where the ledger differs from its model."""
        outcomes = self.both.make(list(moves), fate)
        self.both.check_agreement()
        return outcomes

    def change(
        self,
        act: str,
        owner: int,
        amount: int,
        period: str = "day",
        unit: str = "tokens",
        times: tuple[int, int] = (0, 0),
    ) -> None:
        """Change a quota: an act of `Model.administer`. `times` are relative to now, in ms."""
        now = self.both.model.now if any(times) else 0
        name = self.both.quota_name(owner, unit, period)
        [outcome] = self.make(self.both.administering([(act, name, amount)], (now + times[0], now + times[1])))
        assert not isinstance(outcome, str), outcome

    def reserve(
        self, caller: int, tokens: int, least: int | None = None, *, dispatch: bool = True, fate: Fate = Fate.LANDS
    ) -> str:
        """Reserve an input of 10 tokens and an output of the rest, and return the call's id. It is admitted."""
        move = self.reserving(caller, tokens, least, dispatch=dispatch)
        [outcome] = self.make(move, fate=fate)
        assert not isinstance(outcome, str), outcome
        return list(self.both.model.calls)[-1]

    def refuse(self, caller: int, tokens: int) -> str:
        """Reserve the same, which is refused, and return the refusal."""
        [outcome] = self.make(self.reserving(caller, tokens))
        assert isinstance(outcome, str), outcome
        return outcome

    def reserving(self, caller: int, tokens: int, least: int | None = None, *, dispatch: bool = True) -> Move:
        return self.both.reserving(caller, self.terms(tokens, least), dispatch=dispatch)

    @staticmethod
    def terms(tokens: int, least: int | None = None) -> CallTerms:
        """Those of a call of so many tokens, 10 of them input, with at least so much output: by default, all of it."""
        wanted = tokens - 10
        return CallTerms(10, wanted, wanted if least is None else least, 1_000, PRICES)

    def settle(self, call_id: str, tokens: int, basis: str = "provider") -> Outcome:
        """Settle a call at a cost of so many tokens."""
        [outcome] = self.make(self.both.settling(call_id, basis, (min(tokens, 10), max(0, tokens - 10), 0)))
        return outcome

    def spend(self, caller: int, tokens: int) -> str:
        """A call of so many tokens, from its reserve to its end."""
        call_id = self.reserve(caller, tokens)
        self.settle(call_id, tokens)
        return call_id

    def expire(self, call_id: str) -> None:
        """Let the lease of a call run out, and sweep."""
        self.wait(LEASE_MS + 1)
        assert call_id in dict(self.both.world.lapsed(self.both.process))
        self.make(self.both.expiring(call_id))

    def wait(self, ms: int) -> None:
        self.both.at(self.both.model.now + ms)


Scenario = Callable[[Play], None]
"""What is played on the ledger and its model. Raises AssertionError where they differ."""
