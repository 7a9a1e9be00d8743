"""The ledger and its model, side by side: each move is made on both, and after it they must agree."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

from keyed_model import Key, KeyedCall, KeyedModel
from ledger_model import CallTerms, Outcome, QuotaName, label
from ledger_world import Fate, World, as_outcome
from snapshot import Snapshot, audit

from tollkeeper.chat import Price, Usage
from tollkeeper.principal import Principal, Role
from tollkeeper.quota.rules.idempotency_keys import (
    MAX_ENCRYPTION_BYTES,
    MAX_STORED_BYTES,
    KeyedRequest,
    KeyName,
    StoredResponse,
)
from tollkeeper.quota.rules.meter import Meter
from tollkeeper.quota.rules.models import Basis, Unit
from tollkeeper.quota.rules.operations import (
    Administer,
    ClosedCharge,
    Dispatch,
    Expire,
    Extend,
    Grant,
    Operation,
    Refund,
    Release,
    Renew,
    Reserve,
    SetLimit,
    Settle,
    StoreResponse,
    Terms,
)
from tollkeeper.quota.rules.page import QuotaKey, Subject
from tollkeeper.quota.rules.windows import Period

LEASE_MS = 60_000
TOO_LONG = StoredResponse(200, "text/plain", b"x" * (MAX_STORED_BYTES + MAX_ENCRYPTION_BYTES + 1))
START_MS = 1_709_164_740_000
"""2024-02-28 23:59:00 UTC: a minute before midnight, a day and a minute before the end of a leap month."""


class Move(NamedTuple):
    """An operation, and the same operation of the model. `play` receives whether it is repeated."""

    operation: Operation
    play: Callable[[bool], Outcome]


class SideBySide:
    """One example in a world: its people, its model, and which of the two processes goes on."""

    def __init__(self, world: World, example: int) -> None:
        self.world = world
        self.example = example
        self.process = 0
        self.numbers = itertools.count(1)
        self.before: Snapshot | None = None
        world.clock.ms = START_MS
        world.restart(0)
        world.restart(1)
        accounts = world.create_users(example)
        self.users = list(accounts)
        self.tenants = sorted({account.tenant for account in accounts.values()})
        self.model = KeyedModel(START_MS, accounts)

    def quota_name(self, owner: int, unit: str, period: str) -> QuotaName:
        """Owners 0 to 2 are users, 3 and 4 the tenants."""
        if owner > 2:
            return QuotaName(self.tenants[owner - 3], None, unit, period)
        user = self.users[owner]
        return QuotaName(self.model.accounts[user].tenant, user, unit, period)

    def pick(self, number: int) -> str:
        """One of the calls so far, mostly one that is open."""
        calls = list(self.model.calls)
        some = self.open() if number % 4 else calls
        return (some or calls)[number // 4 % len(some or calls)]

    def keyed(self) -> list[tuple[str, int, str]]:
        """Calls that a key stands for: with their users, as owners are numbered, and the key."""
        return [(key.call, self.users.index(user), name) for (user, name), key in self.model.keys.items()]

    def pick_keyed(self, number: int) -> tuple[str, int, str]:
        """Mostly one that is open."""
        keyed = self.keyed()
        some = [each for each in keyed if self.model.calls[each[0]].ended_by is None] if number % 3 else keyed
        return (some or keyed)[number // 3 % len(some or keyed)]

    def open(self) -> list[str]:
        return [call_id for call_id, call in self.model.calls.items() if call.ended_by is None]

    def expired(self) -> list[str]:
        return [call_id for call_id, call in self.model.calls.items() if call.ended_by == "expire"]

    def reserving(
        self,
        owner: int,
        terms: CallTerms,
        *,
        dispatch: bool,
        version: int = 0,
        tenant: int | None = None,
        keyed_call: KeyedCall | None = None,
    ) -> Move:
        user = self.users[owner]
        account = self.model.accounts[user]
        of_tenant = account.tenant if tenant is None else self.tenants[tenant]
        generation = account.version + version
        call_id = self._new_call()
        caller = Principal(user, of_tenant, Role.MEMBER, generation)
        operation = Reserve(
            call_id, caller, _terms(terms), LEASE_MS, dispatch, keyed_call and KeyedRequest(*keyed_call)
        )
        arguments = call_id, user, of_tenant, generation, terms, LEASE_MS, "dispatched" if dispatch else "reserved"
        if keyed_call is None:
            return Move(operation, lambda _: self.model.reserve(*arguments))
        return Move(operation, lambda _: self.model.reserve_with_key(*arguments, keyed_call))

    def extending(self, failed: str, terms: CallTerms, keyed_call: KeyedCall | None = None) -> Move:
        user = self.model.calls[failed].user
        account = self.model.accounts[user]
        call_id = self._new_call()
        caller = Principal(user, account.tenant, Role.MEMBER, account.version)
        operation = Extend(call_id, caller, _terms(terms), LEASE_MS, previous=failed, error="provider_error")
        arguments = failed, call_id, user, account.tenant, account.version, terms, LEASE_MS
        if keyed_call is None:
            return Move(operation, lambda _: self.model.extend(*arguments))
        operation.keyed_request = KeyedRequest(*keyed_call)
        return Move(operation, lambda _: self.model.extend_with_key(*arguments, keyed_call))

    def storing(self, call_id: str, key: str, usage: tuple[int, int, int], stored: str) -> Move:
        """A settle that leaves its answer, or something that cannot be kept, under a key."""

        def response(closed: ClosedCharge) -> StoredResponse | None:
            body = f"{closed.charge_id} {closed.cost_tokens}".encode()
            results = {"stored": StoredResponse(200, "text/plain", body), "nothing": None, "too long": TOO_LONG}
            return results[stored]

        settle_and_store = StoreResponse(
            KeyName(self.tenant_of(call_id), self.model.calls[call_id].user, key), response
        )
        return Move(
            Settle(call_id, self.tenant_of(call_id), Usage(*usage), Basis.PROVIDER, store_response=settle_and_store),
            lambda _: self.model.settle_and_store(call_id, key, usage, stored=stored == "stored"),
        )

    def tenant_of(self, call_id: str) -> int:
        """The tenant of a call's user; for an unknown call, any."""
        call = self.model.calls.get(call_id)
        return self.tenants[0] if call is None else self.model.accounts[call.user].tenant

    def _new_call(self) -> str:
        return f"chg_{START_MS:012x}{self.example:010x}{next(self.numbers):010x}"

    def dispatching(self, call_id: str) -> Move:
        operation = Dispatch(call_id, self.tenant_of(call_id), LEASE_MS)
        return Move(operation, lambda _: self.model.dispatch(call_id, LEASE_MS, operation))

    def renewing(self, checkpoints: dict[str, tuple[int, int]]) -> Move:
        tenants = {call_id: self.tenant_of(call_id) for call_id in checkpoints}
        return Move(Renew(checkpoints, tenants, LEASE_MS), lambda _: self.model.renew(checkpoints, LEASE_MS))

    def settling(self, call_id: str, basis: str, usage: tuple[int, int, int]) -> Move:
        return Move(
            Settle(call_id, self.tenant_of(call_id), Usage(*usage), Basis(basis)),
            lambda _: self.model.end(call_id, "settle", basis, usage),
        )

    def releasing(self, call_id: str) -> Move:
        return Move(
            Release(call_id, self.tenant_of(call_id)), lambda _: self.model.end(call_id, "release", "none", (0, 0, 0))
        )

    def expiring(self, call_id: str) -> Move:
        return Move(Expire(call_id, self.tenant_of(call_id)), lambda _: self.model.expire(call_id))

    def refunding(self, call_id: str) -> Move:
        return Move(
            Refund(call_id, self.tenant_of(call_id), "operator", "test"),
            lambda again: self.model.refund(call_id, again=again),
        )

    def administering(self, acts: list[tuple[str, QuotaName, int]]) -> Move:
        operation_id = f"adm_{START_MS:012x}{self.example:010x}{next(self.numbers):010x}"
        arguments = tuple(
            SetLimit(_key(name), amount) if kind == "limit" else Grant(_key(name), amount)
            for kind, name, amount in acts
        )
        return Move(
            Administer(operation_id, arguments, "operator", "test"), lambda _: self.model.administer(operation_id, acts)
        )

    def make(self, moves: list[Move], fate: Fate = Fate.LANDS) -> list[Outcome]:
        """Play moves in one transaction, on both sides, and once more where the fate of it asks for that."""
        moves = sorted(moves, key=lambda move: move.operation.order)
        operations = [move.operation for move in moves]
        if fate is Fate.NEVER_COMMITTED:
            self.world.run(operations, process=self.process, crash=True)
            return self.run_on_both(moves, again=True)
        first = self.run_on_both(moves, again=False)
        if fate is Fate.LANDS:
            return first
        second = self.run_on_both(moves, again=True)
        if len(moves) == 1 and not isinstance(first[0], bool | str):
            assert second == first, f"{operations} answered {first}, and then {second}"
        return second

    def run_on_both(self, moves: list[Move], *, again: bool) -> list[Outcome]:
        operations = [move.operation for move in moves]
        results = [as_outcome(response) for response in self.world.run(operations, process=self.process, again=again)]
        expected = [move.play(again) for move in moves]
        assert results == expected, f"{operations} answered {results}, not {expected}"
        return results

    def at(self, ms: int) -> None:
        self.model.now = self.world.clock.ms = ms

    def check_agreement(self) -> None:
        """Assert that the tables keep the promises, say what the model says, and only ever grow."""
        after = self.world.snapshot(self.tenants)
        audit(after)
        self._compare_windows(after)
        self._compare_calls(after)
        self._compare_keys(after)
        if self.before is not None:
            _nothing_was_rewritten(self.before, after)
        self.before = after

    def _compare_windows(self, snapshot: Snapshot) -> None:
        found = {}
        for window in snapshot.windows.values():
            quota = snapshot.quotas[window.quota_id]
            place = (
                QuotaName(quota.tenant_id, quota.user_id, quota.unit, quota.period),
                label(quota.period, window.starts_ms),
            )
            assert place not in found, f"{place} has two windows"
            found[place] = window.granted, window.settled, window.pending, window.forgiven
        expected = {place: tuple(self.model.balances(place)) for place in self.model.granted}
        assert found == expected
        limits_found = {QuotaName(*row[1:5]): row.granted for row in snapshot.quotas.values()}
        assert limits_found == self.model.limits

    def _compare_calls(self, snapshot: Snapshot) -> None:
        assert snapshot.charges.keys() == self.model.calls.keys()
        for call_id, call in self.model.calls.items():
            row = snapshot.charges[call_id]
            money = call.terms.prices is not None
            assert (row.state, row.closed_by, row.basis) == (call.state, call.ended_by, call.basis)
            assert (row.checkpoint_input, row.checkpoint_output, row.lease_ms) == (*call.checkpoint, call.lease)
            assert (row.cost_tokens, row.forgiven_tokens) == (call.cost["tokens"], call.forgiven["tokens"])
            assert (row.cost_micro_usd or 0) == call.cost["micro_usd"] * money
            assert (row.forgiven_micro_usd or 0) == call.forgiven["micro_usd"]
            assert (row.overrun, row.adjusted, row.refunded) == (call.overrun, call.adjusted, call.refunded)

    def _compare_keys(self, snapshot: Snapshot) -> None:
        found = {}
        for name, row in snapshot.keys.items():
            response = None if row.body is None else row.body.decode()
            found[name] = Key(row.charge_id, row.fingerprint, row.created_ms, response)
        assert found == self.model.keys


def _nothing_was_rewritten(before: Snapshot, after: Snapshot) -> None:
    """Entries only grow, windows keep their span, a charge ends once."""
    for window_id, entries in before.entries.items():
        assert after.entries[window_id][: len(entries)] == entries, "an entry was rewritten"
        one, two = before.windows[window_id], after.windows[window_id]
        assert one[:5] == two[:5], f"{one} became {two}: a window's span never changes"
    for charge_id, one_charge in before.charges.items():
        if one_charge.closed_ms is not None:
            two_charge = after.charges[charge_id]
            assert (one_charge.closed_ms, one_charge.closed_by) == (two_charge.closed_ms, two_charge.closed_by)


def next_window(period: str, ms: int) -> int:
    """The first millisecond of the window after this one, found by bisection on their names."""
    low, high = ms, ms + 32 * 86_400_000
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if label(period, middle) == label(period, ms) else (low, middle)
    return high


def _terms(terms: CallTerms) -> Terms:
    meter = Meter(terms.weight, None if terms.prices is None else Price(*terms.prices))
    return Terms("query", "echo", "echo", meter, terms.input, terms.wanted, terms.least)


def _key(name: QuotaName) -> QuotaKey:
    return QuotaKey(Subject(name.tenant, name.user), Unit(name.unit), Period(name.period))
