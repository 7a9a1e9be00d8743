"""The ledger and its model, side by side: each move is made on both, and after it they must agree."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from keyed_model import Key, KeyedCall, KeyedModel
from ledger_model import FALLBACK, Caller, CallTerms, Outcome, Part, QuotaName
from ledger_world import Fate, World, as_outcome
from snapshot import Quota, Snapshot, audit

from tollkeeper.chat import Price, Usage
from tollkeeper.principal import Principal, Role
from tollkeeper.quota.rules.idempotency_keys import (
    MAX_ENCRYPTION_BYTES,
    MAX_STORED_BYTES,
    KeyedRequest,
    KeyName,
    StoredResponse,
)
from tollkeeper.quota.rules.limit_changes import Grant, LimitChange, Override, RemoveQuota, SetLimit, SpentRule
from tollkeeper.quota.rules.meter import Meter
from tollkeeper.quota.rules.models import Basis, Unit
from tollkeeper.quota.rules.operations import (
    Administer,
    BookFree,
    ClosedCharge,
    Dispatch,
    Expire,
    Extend,
    Operation,
    Refund,
    Release,
    Renew,
    Reserve,
    Settle,
    StoreResponse,
    Terms,
    Withdraw,
)
from tollkeeper.quota.rules.page import QuotaKey, Subject
from tollkeeper.quota.rules.subjects import SubjectKind
from tollkeeper.quota.rules.windows import Period
from tollkeeper.tags import decode_tags

LEASE_MS = 60_000
WITH_KEY = 5
"""The number of the first user's key among the owners of quotas, and of that user with the key among callers."""
IN_GROUP = 6
"""The number of the group among the owners of quotas, and of the first user in it among callers."""
TALKING = 7
"""The number of the first user in a conversation among callers."""
EACH = {7: "each_user", 8: "each_key", 9: "each_conversation"}
"""The templates of the first tenant, by their numbers among the owners of quotas."""
EACH_OF_FIRST = {10: "each_user", 11: "each_key", 12: "each_conversation"}
"""What the first user, its key and its conversation have of them: only grants are made to these."""
TAGGED = 13
"""The number of the tag `run=a` among the owners of quotas, and of the first user with it among callers."""
OTHERWISE_TAGGED = 14
"""The number of the first user with the tag `run=b` among callers."""
EACH_TAG = 15
"""The number of the template for each value of the tag `run`, and what `run=a` has of it is the next one."""
GROUP_NAME = "team"
CONVERSATION = "talk"
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
        self.group = world.create_group(example, accounts[self.users[0]].tenant)
        self.tag = world.create_tag(accounts[self.users[0]].tenant)
        self.model.tags[accounts[self.users[0]].tenant] = {"run": None}
        self.key = world.create_key(example, self.users[0], accounts[self.users[0]].tenant)

    def quota_name(self, owner: int, unit: str, period: str) -> QuotaName:
        """Owners 0 to 2 are users, 3 and 4 the tenants, 5 is a key of the first user, 6 a group of that tenant; then
        come the templates of that tenant, what the first user has of them, 13 is a tag, and 15 and 16 are a template
        of tags.
        """
        part: Part | None = None
        if owner in EACH or owner in EACH_OF_FIRST:
            kind = (EACH | EACH_OF_FIRST)[owner]
            value = Caller(self.users[0], self.key, None, CONVERSATION).value(kind) if owner in EACH_OF_FIRST else ""
            return QuotaName(self.model.accounts[self.users[0]].tenant, None, unit, period, (kind, ""), value)
        if owner in (EACH_TAG, EACH_TAG + 1):
            value = "run=a" if owner > EACH_TAG else ""
            return QuotaName(self.model.accounts[self.users[0]].tenant, None, unit, period, ("each_tag", "run"), value)
        if owner == IN_GROUP:
            return QuotaName(self.model.accounts[self.users[0]].tenant, None, unit, period, ("group", str(self.group)))
        if owner == TAGGED:
            return QuotaName(self.model.accounts[self.users[0]].tenant, None, unit, period, ("tag", "run=a"))
        if owner in (3, 4):
            return QuotaName(self.tenants[owner - 3], None, unit, period)
        if owner == WITH_KEY:
            owner, part = 0, ("key", self.key)
        user = self.users[owner]
        return QuotaName(self.model.accounts[user].tenant, user, unit, period, part)

    def caller(self, owner: int) -> Caller:
        """Callers 0 to 2 are users; 5 is the first of them with the key, 6 in the group, 7 in a conversation, 13 and 14
        with a tag.
        """
        if owner in (TAGGED, OTHERWISE_TAGGED):
            return Caller(self.users[0], tags=("run=a" if owner == TAGGED else "run=b",))
        if owner == TALKING:
            return Caller(self.users[0], None, None, CONVERSATION)
        if owner == IN_GROUP:
            return Caller(self.users[0], None, GROUP_NAME)
        return Caller(self.users[0], self.key) if owner == WITH_KEY else Caller(self.users[owner])

    def change_membership(self, owner: int, state: str) -> None:
        """By another connection: it counts at the very next reserve."""
        user = self.users[owner]
        account = self.model.accounts[user]
        self.world.execute(f"DELETE FROM group_members WHERE user_id = {user}")
        account.groups, account.default_group = {}, None
        if state != "none":
            account.groups = {GROUP_NAME: self.group}
            account.default_group = GROUP_NAME if state == "default" else None
            self.world.execute(
                "INSERT INTO group_members (tenant_id, group_id, user_id, is_default)"
                f" VALUES ({account.tenant}, {self.group}, {user}, {state == 'default'})"
            )

    def change_calendar(self, tenant: int, zone: str, reset_day: int) -> None:
        """By another connection: it counts for the next windows, and for none that has begun."""
        tenant_id = self.tenants[tenant]
        self.model.calendars[tenant_id] = zone, reset_day
        changes = f"time_zone = '{zone}', reset_day = {reset_day}"
        self.world.execute(f"UPDATE tenants SET {changes} WHERE id = {tenant_id}")

    def change_tag(self, state: str) -> None:
        """By another connection: it counts at the very next reserve."""
        tenant = self.model.accounts[self.users[0]].tenant
        values = None if state in ("any", "required") else {"a"}
        self.model.tags[tenant] = {} if state == "closed" else {"run": values}
        self.model.required = {(tenant, "run")} if state == "required" else set()
        self.world.execute(
            f"UPDATE tag_names SET any_value = {values is None}, is_required = {state == 'required'},"
            f" closed_ms = {1 if state == 'closed' else 'NULL'} WHERE id = {self.tag}"
        )

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
        caller = self.caller(owner)
        account = self.model.accounts[caller.user]
        of_tenant = account.tenant if tenant is None else self.tenants[tenant]
        generation = account.version + version
        call_id = self._new_call()
        principal = _principal(caller, of_tenant, generation)
        keyed_request = keyed_call and KeyedRequest(*keyed_call)
        operation = Reserve(call_id, principal, _terms(terms), LEASE_MS, dispatch, keyed_request)
        arguments = call_id, caller, of_tenant, generation, terms, LEASE_MS, "dispatched" if dispatch else "reserved"
        if keyed_call is None:
            return Move(operation, lambda _: self.model.reserve(*arguments))
        return Move(operation, lambda _: self.model.reserve_with_key(*arguments, keyed_call))

    def booking_free(self, owner: int, terms: CallTerms, *, version: int = 0) -> Move:
        """A call that is answered without a provider, whatever the terms of its model."""
        caller = self.caller(owner)
        account = self.model.accounts[caller.user]
        generation, call_id = account.version + version, self._new_call()
        nothing = terms._replace(input=0, wanted=0, least=0)
        operation = BookFree(call_id, _principal(caller, account.tenant, generation), _terms(nothing), 0)
        return Move(operation, lambda _: self.model.book_free(call_id, caller, account.tenant, generation, nothing))

    def extending(self, failed: str, terms: CallTerms, keyed_call: KeyedCall | None = None) -> Move:
        caller = self.model.calls[failed].caller
        account = self.model.accounts[caller.user]
        call_id = self._new_call()
        principal = _principal(caller, account.tenant, account.version)
        operation = Extend(call_id, principal, _terms(terms), LEASE_MS, previous=failed, error="provider_error")
        arguments = failed, call_id, caller, account.tenant, account.version, terms, LEASE_MS
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

    def dispatching(self, call_id: str, version: int = 0, terms: CallTerms | None = None) -> Move:
        caller = self.model.calls[call_id].caller
        account = self.model.accounts[caller.user]
        generation, successor = account.version + version, self._new_call()
        principal = _principal(caller, account.tenant, generation)
        operation = Dispatch(call_id, account.tenant, LEASE_MS, principal, successor)
        operation.terms = _terms(terms) if terms is not None else None
        arguments = call_id, generation, successor, LEASE_MS, operation, terms
        return Move(operation, lambda _: self.model.dispatch(*arguments))

    def withdrawing(self, call_id: str) -> Move:
        reason = f"withdrawn {next(self.numbers)}"
        return Move(Withdraw(call_id, self.tenant_of(call_id), reason), lambda _: self.model.withdraw(call_id, reason))

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

    def administering(self, acts: list[tuple[str, QuotaName, int]], times: tuple[int, int] = (0, 0)) -> Move:
        """`times` are when overrides begin and end, and when grants end if that is not 0."""
        operation_id = f"adm_{START_MS:012x}{self.example:010x}{next(self.numbers):010x}"
        arguments = tuple(_change(*act, *times) for act in acts)
        return Move(
            Administer(operation_id, arguments, "operator", "test"),
            lambda _: self.model.administer(operation_id, acts, times),
        )

    def make(self, moves: list[Move], fate: Fate = Fate.LANDS) -> list[Outcome]:
        """Play moves in one transaction, on both sides, and once more where the fate of it asks for that.

        An expiry that is repeated finds its charge closed; every other operation answers as the first time.
        """
        moves = sorted(moves, key=lambda move: move.operation.order)
        operations = [move.operation for move in moves]
        if fate is Fate.NEVER_COMMITTED:
            self.world.run(operations, process=self.process, crash=True)
            return self.run_on_both(moves, again=True)
        first = self.run_on_both(moves, again=False)
        if fate is Fate.LANDS:
            return first
        second = self.run_on_both(moves, again=True)
        if len(moves) == 1 and not isinstance(first[0], bool | str) and not isinstance(operations[0], Expire):
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
        found, names = {}, _names(snapshot.quotas.values())
        for window in snapshot.windows.values():
            place = names[window.quota_id]._replace(value=window.value), (window.starts_ms, window.ends_ms)
            assert place not in found, f"{place} has two windows"
            found[place] = window.granted, window.settled, window.pending, window.forgiven
            assert bool(window.report_only) == (place in self.model.reporting_places), place
            assert window.rolled == self.model.rolled.get(place, 0), place
            assert window.base == self.model.bases.get(place), place
            assert (window.override, window.due_ms) == (self.model.overridden.get(place), self.model.due.get(place))
        expected = {place: tuple(self.model.balances(place)) for place in self.model.granted}
        assert found == expected
        limits_found = {names[row.id]: row.granted for row in snapshot.quotas.values()}
        assert limits_found == self.model.limits
        reporting = {names[row.id] for row in snapshot.quotas.values() if row.report_only}
        assert reporting == self.model.reporting
        assert {names[row.id] for row in snapshot.quotas.values() if row.fallback_model} == self.model.falling_back

    def _compare_calls(self, snapshot: Snapshot) -> None:
        assert snapshot.charges.keys() == self.model.calls.keys()
        for call_id, call in self.model.calls.items():
            row = snapshot.charges[call_id]
            money = call.terms.prices is not None
            assert (row.state, row.closed_by, row.basis) == (call.state, call.ended_by, call.basis)
            assert (row.user_id, row.key_id, row.group_id) == (call.user, call.caller.key, call.group)
            assert (row.conversation or "") == call.caller.value("each_conversation")
            assert decode_tags(row.tags) == call.caller.tags
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


def _terms(terms: CallTerms) -> Terms:
    meter = Meter(terms.weight, None if terms.prices is None else Price(*terms.prices))
    return Terms("query", "echo", "echo", meter, terms.input, terms.wanted, terms.least)


def _change(kind: str, name: QuotaName, amount: int, from_ms: int, until_ms: int) -> LimitChange:
    if kind == "grant":
        return Grant(_key(name), amount, until_ms=until_ms or None)
    if kind == "override":
        return Override(_key(name), amount, until_ms, from_ms)
    if kind == "remove":
        return RemoveQuota(_key(name))
    if kind == "roll":
        return SetLimit(_key(name), amount, rollover_cap=max(0, amount // 2))
    rules = {"report": SpentRule(report_only=True), "block": SpentRule(), "fallback": SpentRule(False, FALLBACK)}
    return SetLimit(_key(name), amount, when_spent=rules.get(kind))


def _principal(caller: Caller, tenant: int, version: int) -> Principal:
    group, talk, tags = caller.group, caller.conversation, caller.tags
    return Principal(caller.user, tenant, Role.MEMBER, version, caller.key, group=group, conversation=talk, tags=tags)


def _names(quotas: Iterable[Quota]) -> dict[int, QuotaName]:
    """The names of quotas, by their ids."""
    names: dict[int, QuotaName] = {}
    removed = Counter[QuotaName]()
    for quota in sorted(quotas):
        part = None if quota.kind in ("user", "tenant") else (quota.kind, quota.subject)
        name = QuotaName(quota.tenant_id, quota.user_id, quota.unit, quota.period, part)
        removed[name] += quota.removed_ms is not None
        names[quota.id] = name._replace(removed=removed[name] if quota.removed_ms is not None else 0)
    return names


def _key(name: QuotaName) -> QuotaKey:
    part = () if name.part is None else (SubjectKind(name.part[0]), name.part[1], name.value)
    return QuotaKey(Subject(name.tenant, name.user, *part), Unit(name.unit), Period(name.period))
