"""A small model of the ledger, written from its promises: plain facts, and every balance worked out anew from them.

Nothing is imported from the ledger: quotas are tuples, windows are labels such as `2026-02-28`, costs are fractions.
An outcome is a tuple that names it first, or the refusal's name alone.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from math import ceil
from typing import NamedTuple

LABELS = {"minute": "%Y-%m-%d %H:%M", "hour": "%Y-%m-%d %H", "day": "%Y-%m-%d", "month": "%Y-%m", "total": "ever"}
MAX_GRANTED = 10**15

Outcome = tuple[object, ...] | str | int | bool | frozenset[str] | None


def label(period: str, ms: int) -> str:
    """The window that a moment falls in, by name."""
    return (datetime(1970, 1, 1) + timedelta(milliseconds=ms)).strftime(LABELS[period])  # noqa: DTZ001


class QuotaName(NamedTuple):
    """A quota; without a user, the tenant's own."""

    tenant: int
    user: int | None
    unit: str
    period: str

    @property
    def shown(self) -> str:
        owner = "tenant" if self.user is None else "user"
        return f"{owner}-{self.period}" + ("-usd" if self.unit == "micro_usd" else "")


Place = tuple[QuotaName, str]
"""A quota's window."""


class CallTerms(NamedTuple):
    """The terms of a call; `prices` is (input, cached input, output) in micro-USD per million."""

    input: int
    wanted: int
    least: int
    weight: int
    prices: tuple[int, int, int] | None

    def cost(self, unit: str, tokens_in: int, tokens_out: int, cached: int = 0) -> int:
        if unit == "tokens":
            return ceil(Fraction((tokens_in + tokens_out) * self.weight, 1000))
        if self.prices is None:
            return 0
        fresh, again, out = self.prices
        cached = min(cached, tokens_in)
        return ceil(Fraction((tokens_in - cached) * fresh + cached * again + tokens_out * out, 10**6))


@dataclass
class Call:
    """One charge."""

    user: int
    terms: CallTerms
    places: list[Place]
    output: int
    state: str
    lease: int
    checkpoint: tuple[int, int]
    ended_by: str | None = None
    basis: str | None = None
    usage: tuple[int, int, int] = (0, 0, 0)
    cost: dict[str, int] = field(default_factory=lambda: {"tokens": 0, "micro_usd": 0})
    forgiven: dict[str, int] = field(default_factory=lambda: {"tokens": 0, "micro_usd": 0})
    overrun: bool = False
    adjusted: bool = False
    refunded: bool = False
    worker: object = None

    def held(self, unit: str) -> int:
        return self.terms.cost(unit, self.terms.input, self.output)

    def paid(self, unit: str) -> int:
        return 0 if self.refunded else self.cost[unit]


@dataclass
class Account:
    tenant: int
    version: int = 0
    active: bool = True


class Balances(NamedTuple):
    granted: int
    settled: int
    pending: int
    forgiven: int


class Model:
    """The ledger as it should be. `now` is set from outside."""

    def __init__(self, now: int, accounts: dict[int, Account]) -> None:
        self.now = now
        self.accounts = accounts
        self.limits: dict[QuotaName, int] = {}
        self.granted: dict[Place, int] = {}
        self.calls: dict[str, Call] = {}
        self.administered: set[str] = set()

    def balances(self, place: Place) -> Balances:
        unit = place[0].unit
        calls = [call for call in self.calls.values() if place in call.places]
        pending = sum(call.held(unit) for call in calls if call.ended_by is None)
        settled = sum(call.paid(unit) for call in calls)
        return Balances(self.granted[place], settled, pending, sum(call.forgiven[unit] for call in calls))

    def places_of(self, user: int) -> list[Place]:
        """The windows of now that apply to a user, opened if they are new."""
        tenant = self.accounts[user].tenant
        mine = [name for name in self.limits if name.tenant == tenant and name.user in (None, user)]
        return [self.place(name) for name in mine]

    def place(self, name: QuotaName) -> Place:
        place = name, label(name.period, self.now)
        self.granted.setdefault(place, self.limits[name])
        return place

    def reserve(
        self, call_id: str, user: int, tenant: int, version: int, terms: CallTerms, lease: int, state: str
    ) -> Outcome:
        places = self.places_of(user)
        if call_id in self.calls:
            return self.held(self.calls[call_id]) if self.calls[call_id].ended_by is None else "LedgerUnavailable"
        if not self.accepts(user, tenant, version):
            return "Unauthenticated"
        if not any(name.user == user and name.unit == "tokens" for name, _ in places):
            return "QuotaExceeded"
        if terms.prices is None and any(name.unit == "micro_usd" for name, _ in places):
            return "QuotaExceeded"
        now = {place: self.balances(place) for place in places}

        def fits(output: int, *, beside_others: bool) -> bool:
            return all(
                balances.settled + balances.pending * beside_others + terms.cost(place[0].unit, terms.input, output)
                <= balances.granted
                for place, balances in now.items()
            )

        outputs = [output for output in range(terms.least, terms.wanted + 1) if fits(output, beside_others=False)]
        if not outputs:
            return "QuotaExceeded"
        if not fits(outputs[-1], beside_others=True):
            return "QuotaHeld"
        self.calls[call_id] = Call(user, terms, places, outputs[-1], state, self.now + lease, (terms.input, 0))
        return self.held(self.calls[call_id])

    def accepts(self, user: int, tenant: int, version: int) -> bool:
        account = self.accounts[user]
        return account.active and (account.tenant, account.version) == (tenant, version)

    def extend(
        self, failed: str, call_id: str, user: int, tenant: int, version: int, terms: CallTerms, lease: int
    ) -> Outcome:
        """The failed attempt is released, whatever becomes of the next."""
        self.end(failed, "release", "none", (0, 0, 0))
        return self.reserve(call_id, user, tenant, version, terms, lease, "dispatched")

    def dispatch(self, call_id: str, lease: int, worker: object) -> Outcome:
        """True for the first worker that dispatches, also when it repeats the operation."""
        call = self.calls.get(call_id)
        if call is None or call.ended_by is not None:
            return False
        if call.state == "reserved":
            call.state, call.lease, call.worker = "dispatched", self.now + lease, worker
        return call.worker is worker

    def renew(self, checkpoints: dict[str, tuple[int, int]], lease: int) -> Outcome:
        gone = set()
        for call_id, (tokens_in, tokens_out) in checkpoints.items():
            call = self.calls.get(call_id)
            if call is None or call.ended_by is not None:
                gone.add(call_id)
            else:
                call.checkpoint = min(call.checkpoint[0], tokens_in), max(call.checkpoint[1], tokens_out)
                call.lease = max(call.lease, self.now + lease)
        return frozenset(gone)

    def end(self, call_id: str, how: str, basis: str, usage: tuple[int, int, int]) -> Outcome:
        """Settle or release."""
        call = self.calls.get(call_id)
        if call is None:
            return "NotFound" if how == "settle" else None
        if call.basis == "cache":
            return self.ended(call)
        if call.ended_by is None:
            self._finish(call, how, basis, usage)
        elif call.ended_by == "expire":
            if not call.adjusted:
                self._adjust(call, basis, usage)
        elif call.ended_by != how:
            return "LedgerConflict"
        return self.ended(call)

    def expire(self, call_id: str) -> Outcome:
        call = self.calls.get(call_id)
        if call is None or call.ended_by is not None or call.lease >= self.now:
            return False
        if call.state == "reserved":
            self._finish(call, "expire", "none", (0, 0, 0))
        else:
            self._finish(call, "expire", "unknown", (*call.checkpoint, 0))
        return True

    def lapsed(self) -> set[str]:
        return {call_id for call_id, call in self.calls.items() if call.ended_by is None and call.lease < self.now}

    def administer(self, operation: str, acts: list[tuple[str, QuotaName, int]]) -> Outcome:
        """Acts are ("limit", quota, limit) and ("grant", quota, amount): all or none."""
        if operation in self.administered:
            return tuple(self.shown(self.place(name)) for _, name, _ in acts)
        if len({name for _, name, _ in acts}) < len(acts):
            return "InvalidRequest"
        for act, name, amount in acts:
            if act == "grant" and name not in self.limits:
                return "NotFound"
            place = name, label(name.period, self.now)  # a refused act opens no window
            old = self.limits.get(name, 0)
            new, more = (amount, amount - old) if act == "limit" else (old, amount)
            if not 0 <= new <= MAX_GRANTED or not 0 <= self.granted.get(place, old) + more <= MAX_GRANTED:
                return "InvalidRequest"
        for act, name, amount in acts:
            self.limits.setdefault(name, 0)
            place = self.place(name)
            if act == "limit":
                self.granted[place] += amount - self.limits[name]
                self.limits[name] = amount
            else:
                self.granted[place] += amount
        self.administered.add(operation)
        return self.administer(operation, acts)

    def refund(self, call_id: str, *, again: bool) -> Outcome:
        call = self.calls.get(call_id)
        if call is None:
            return "NotFound"
        if call.refunded and again:
            return call.cost["tokens"]
        if call.state != "settled" or call.refunded or not any(call.cost.values()):
            return "LedgerConflict"
        call.refunded = True
        return call.cost["tokens"]

    def shown(self, place: Place) -> tuple[str, int, int, int]:
        """A window as people see it: its quota, limit, used, reserved."""
        granted, settled, pending, _ = self.balances(place)
        return place[0].shown, granted, settled, pending

    def held(self, call: Call) -> Outcome:
        return "held", call.output, tuple(sorted(map(self.shown, call.places)))

    def ended(self, call: Call) -> Outcome:
        running = [place for place in call.places if place[1] >= label(place[0].period, self.now)]
        balances = tuple(sorted(map(self.shown, running or call.places)))
        money = None if call.terms.prices is None else call.cost["micro_usd"]
        return "closed", call.basis, call.usage, call.cost["tokens"], money, call.overrun, balances

    def _cost_of(self, call: Call, basis: str, usage: tuple[int, int, int]) -> dict[str, int]:
        """What a call cost, forgiving what is unknown: a report in full, everything else at most the hold."""
        costs = {}
        for unit in ("tokens", "micro_usd"):
            cost = 0 if basis == "none" else call.terms.cost(unit, *usage)
            costs[unit] = cost if basis == "provider" else min(cost, call.held(unit))
        return costs

    def _finish(self, call: Call, how: str, basis: str, usage: tuple[int, int, int]) -> None:
        cost = self._cost_of(call, basis, usage)
        if basis == "unknown":
            if how == "expire" or self._is_forgiven(call, call.held("tokens") - cost["tokens"]):
                call.forgiven = {unit: call.held(unit) - cost[unit] for unit in cost}
            else:
                cost = {unit: call.held(unit) for unit in cost}
        call.state = "released" if basis == "none" else "settled"
        call.ended_by, call.basis, call.usage, call.cost = how, basis, usage, cost
        call.overrun = any(cost[unit] > call.held(unit) for unit in cost)

    def _is_forgiven(self, call: Call, rest: int) -> bool:
        """5 % of the grant of the user's shortest window, or one call."""
        own = [place for place in call.places if place[0].user is not None and place[0].unit == "tokens"]
        balances = self.balances(min(own, key=lambda place: list(LABELS).index(place[0].period)))
        return balances.forgiven == 0 or Fraction(balances.forgiven + rest, 1) <= Fraction(balances.granted * 5, 100)

    def _adjust(self, call: Call, basis: str, usage: tuple[int, int, int]) -> None:
        """The late truth: nothing is forgiven, unless it is unknown still; above what was forgiven, it is overrun."""
        cost_now = dict(call.cost) if call.refunded else self._cost_of(call, basis, usage)
        call.overrun = False
        for unit, cost in cost_now.items():
            more = max(0, cost - call.cost[unit])
            call.overrun = call.overrun or more > call.forgiven[unit]
            is_known = basis != "unknown" and not call.refunded
            call.forgiven[unit] -= call.forgiven[unit] if is_known else min(more, call.forgiven[unit])
        call.adjusted, call.basis, call.usage, call.cost = True, basis, usage, cost_now
        if cost_now["tokens"] > 0:
            call.state = "settled"
