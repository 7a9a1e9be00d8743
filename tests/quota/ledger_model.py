"""A small model of the ledger, written from its promises: plain facts, and every balance worked out anew from them.

Nothing is imported from the ledger: quotas are tuples, windows are pairs of moments, costs are fractions.
An outcome is a tuple that names it first, or the refusal's name alone.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from hashlib import sha256
from math import ceil, floor
from operator import itemgetter
from typing import NamedTuple

from calendar_model import PERIODS, Calendar, Span, opened

MAX_GRANTED = 10**15
SUFFIXES = {"tokens": "", "micro_usd": "-usd", "requests": "-requests", "concurrency": "-concurrency"}
"""The units, and how they end the name of a quota."""
FALLBACK = "smaller"
"""The model that some quotas name for the calls for which they have no room."""
MEAN_MS = {"minute": 60_000, "hour": 3_600_000, "day": 86_400_000, "week": 604_800_000, "month": 2_629_746_000}
"""The mean length of a window."""
PRICED = ("tokens", "micro_usd")

Outcome = tuple[object, ...] | str | int | bool | frozenset[str] | None


Part = tuple[str, str]
"""What of a user or tenant a quota is of, and its name: ("key", its id), ("group", its id) or ("tag", "name=value");
or a template, as ("each_user", "") or ("each_tag", its name).
"""


class QuotaName(NamedTuple):
    """A quota; without a user, the tenant's. It is of all their calls, or of those that count for its `part`."""

    tenant: int
    user: int | None
    unit: str
    period: str
    part: Part | None = None
    value: str = ""
    """Which user, key, conversation or tag, of those that have the quota of a template."""
    removed: int = 0
    """Of a removed quota: the how manyth of this name it was. 0 for one that applies."""

    @property
    def template(self) -> "QuotaName":
        """The quota that has a row: the template, or the quota itself."""
        return self._replace(value="")

    @property
    def is_template(self) -> bool:
        return self.part is not None and self.part[0].startswith("each_")

    @property
    def shown(self) -> str:
        owner = self.part[0] if self.part is not None else "tenant" if self.user is None else "user"
        owner = owner.removeprefix("each_") if self.value else owner
        if self.part is not None and self.part[0] in ("tag", "each_tag"):
            owner += f"-{self.part[1].partition('=')[0]}"
        return f"{owner}-{self.period}{SUFFIXES[self.unit]}"

    @property
    def admits(self) -> bool:
        """Without such a quota, a user cannot make any call."""
        is_own = self.user is not None and self.part is None
        return self.unit == "tokens" and (is_own or (self.value != "" and self.part == ("each_user", "")))


class Caller(NamedTuple):
    """Whose call it is, by which key it was sent, if by any, which group and conversation it names, if any, and which
    tags it has.
    """

    user: int
    key: str | None = None
    group: str | None = None
    conversation: str | None = None
    tags: tuple[str, ...] = ()

    def value(self, kind: str, name: str = "") -> str:
        """Which one it is of those that have the quota of a template; empty if it is none."""
        if kind == "each_tag":
            return next((tag for tag in self.tags if tag.startswith(f"{name}=")), "")
        digest = sha256((self.conversation or "").encode()).hexdigest()[:24]
        talk = f"{self.user}/{digest}" if self.conversation else ""
        return {"each_user": str(self.user), "each_key": self.key or "", "each_conversation": talk}[kind]

    def own_part(self, kind: str, name: str) -> Part | None:
        """What a quota is of that replaces a template."""
        if kind == "each_tag":
            return "tag", self.value(kind, name)
        return ("key", self.key or "") if kind == "each_key" else None


Place = tuple[QuotaName, Span]
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
        if unit not in PRICED:
            return 1
        if self.prices is None:
            return 0
        fresh, again, out = self.prices
        cached = min(cached, tokens_in)
        return ceil(Fraction((tokens_in - cached) * fresh + cached * again + tokens_out * out, 10**6))


@dataclass
class Call:
    """One charge."""

    caller: Caller
    terms: CallTerms
    places: list[Place]
    output: int
    state: str
    lease: int
    checkpoint: tuple[int, int]
    ended_by: str | None = None
    basis: str | None = None
    usage: tuple[int, int, int] = (0, 0, 0)
    cost: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SUFFIXES, 0))
    forgiven: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SUFFIXES, 0))
    overrun: bool = False
    adjusted: bool = False
    refunded: bool = False
    worker: object = None
    withdrawn: str | None = None
    would_refuse: tuple[tuple[str, str], ...] = ()
    group: int | None = None

    @property
    def user(self) -> int:
        return self.caller.user

    def held(self, unit: str) -> int:
        return self.terms.cost(unit, self.terms.input, self.output)

    def paid(self, unit: str) -> int:
        return 0 if self.refunded else self.cost[unit]


@dataclass
class Account:
    tenant: int
    version: int = 0
    active: bool = True
    groups: dict[str, int] = field(default_factory=dict)
    default_group: str | None = None


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
        self.reporting: set[QuotaName] = set()
        """The quotas that refuse nothing, and only say what they would refuse."""
        self.falling_back: set[QuotaName] = set()
        """The quotas that name another model."""
        self.caps: dict[QuotaName, int] = {}
        """How much of what is unused rolls over, at most."""
        self.rolled: dict[Place, int] = {}
        self.bases: dict[Place, int] = {}
        """The limit of a template that each window of its values has followed last."""
        self.overrides: list[tuple[QuotaName, int, int, int]] = []
        """Limits of quotas, each from a moment until another; the newest counts."""
        self.overridden: dict[Place, int] = {}
        self.expiring: list[tuple[Place, int, int]] = []
        """What is granted to windows until a moment."""
        self.due: dict[Place, int] = {}
        self.reporting_places: set[Place] = set()
        self.tags: dict[int, dict[str, set[str] | None]] = {}
        """The tags of each tenant, by their names: the values that they may have, or None for any."""
        self.required: set[tuple[int, str]] = set()
        """Tenants, each with a tag that all its calls must have."""
        self.calls: dict[str, Call] = {}
        self.administered: set[str] = set()
        self.calendars: dict[int, Calendar] = {account.tenant: ("UTC", 1) for account in accounts.values()}

    def balances(self, place: Place) -> Balances:
        unit = place[0].unit
        calls = [call for call in self.calls.values() if place in call.places]
        pending = sum(call.held(unit) for call in calls if call.ended_by is None)
        settled = sum(call.paid(unit) for call in calls)
        return Balances(self.granted[place], settled, pending, sum(call.forgiven[unit] for call in calls))

    def applying(self) -> list[QuotaName]:
        """The quotas that are not removed."""
        return [name for name in self.limits if not name.removed]

    def remove(self, name: QuotaName) -> None:
        """It goes on under another name, by which no call finds it, with all that its windows hold."""
        number = 1 + sum(one._replace(removed=0) == name for one in self.limits if one.removed)

        def named(one: QuotaName) -> QuotaName:
            return one._replace(removed=number) if one.template == name else one

        def placed(place: Place) -> Place:
            return named(place[0]), place[1]

        self.limits = {named(one): limit for one, limit in self.limits.items()}
        self.caps = {named(one): cap for one, cap in self.caps.items()}
        self.reporting, self.falling_back = set(map(named, self.reporting)), set(map(named, self.falling_back))
        self.reporting_places = set(map(placed, self.reporting_places))
        self.overrides = [(named(one[0]), *one[1:]) for one in self.overrides]
        self.expiring = [(placed(one[0]), *one[1:]) for one in self.expiring]
        for moved in (self.granted, self.rolled, self.bases, self.overridden, self.due):
            renamed = {placed(place): amount for place, amount in moved.items()}
            moved.clear()
            moved.update(renamed)
        for call in self.calls.values():
            call.places = list(map(placed, call.places))

    def names_of(self, caller: Caller) -> list[QuotaName]:
        """The quotas that apply to a caller."""
        tenant = self.accounts[caller.user].tenant
        parts: set[Part | None] = {None, ("key", caller.key or ""), ("group", str(self.group_of(caller)))}
        parts |= {("tag", tag) for tag in caller.tags}
        mine = [name for name in self.applying() if name.tenant == tenant and name.user in (None, caller.user)]
        found = [name for name in mine if name.part in parts]
        for name in mine:
            if name.is_template and name.part is not None and (value := caller.value(*name.part)):
                owner = None if name.part[0] == "each_tag" else caller.user
                own = QuotaName(tenant, owner, name.unit, name.period, caller.own_part(*name.part))
                if name.part[0] == "each_conversation" or own not in self.limits:
                    found.append(name._replace(value=value))
        return found

    def group_of(self, caller: Caller) -> int | None:
        account = self.accounts[caller.user]
        return account.groups.get(caller.group or account.default_group or "")

    def places_of(self, caller: Caller) -> list[Place]:
        """The windows of now that apply to a caller, opened if they are new."""
        return [self.place(name) for name in self.names_of(caller)]

    def place(self, name: QuotaName) -> Place:
        place = self.current(name)
        if place not in self.granted:
            self.granted[place] = self.limits[name.template]
            if name.value:
                self.bases[place] = self.granted[place]
            if name.template in self.reporting:
                self.reporting_places.add(place)
            self.override(place)
            self.find_due(place)
            if rolled := self.rolling_into(place):
                self.rolled[place] = rolled
                self.granted[place] += rolled
        self.ripen(place)
        self.follow(place)
        return place

    def follow(self, place: Place) -> None:
        """A window has what its template has by now, before anything is decided about it."""
        if place in self.bases:
            limit = self.limits[place[0].template]
            self.granted[place] += limit - self.bases[place]
            self.bases[place] = limit
            is_reporting = place[0].template in self.reporting
            (self.reporting_places.add if is_reporting else self.reporting_places.discard)(place)

    def rolling_into(self, place: Place) -> int:
        """What was unused in the last window before this one, and in those between that were never opened."""
        name, (start, _) = place
        before = [one for one in self.granted if one[0] == name and one != place and one[1][0] <= self.now]
        if name.template not in self.caps or not before:
            return 0
        cap, limit = self.caps[name.template], self.limits[name.template]
        previous = max(before, key=lambda one: one[1][0])
        end, balances = previous[1][1] or 0, self.balances(previous)
        overrides = [one[1:] for one in self.overrides if one[0] == name]
        at_its_end = [amount for amount, first, last in overrides if first < end <= last]
        base = at_its_end[-1] if at_its_end else limit
        rest = min(cap, max(0, base + self.rolled.get(previous, 0) - balances.settled - balances.pending))
        absent = floor(Fraction(start - end, MEAN_MS[name.period]) + Fraction(1, 2))
        lowest = min([limit, *(amount for amount, first, last in overrides if first < start and last > end)])
        return min(cap, rest + max(0, absent) * lowest)

    def touch(self, *call_ids: str) -> None:
        """What is due in the windows of a call happens with whatever becomes of the call."""
        for call_id in call_ids:
            for place in self.calls[call_id].places if call_id in self.calls else ():
                self.ripen(place)

    def ripen(self, place: Place) -> None:
        """What is due by now happens before anything is decided about the window."""
        if self.due.get(place, self.now + 1) > self.now:
            return
        over = [one for one in self.expiring if one[0] == place and one[2] <= self.now]
        self.granted[place] -= sum(amount for _, amount, _ in over)
        self.expiring = [one for one in self.expiring if one not in over]
        self.override(place)
        self.find_due(place)

    def override(self, place: Place) -> None:
        """The window has the limit that the newest override of now sets, or the quota's."""
        limits = [limit for name, limit, start, end in self.overrides if name == place[0] and start <= self.now < end]
        quota_limit = self.limits[place[0].template]
        self.granted[place] -= self.overridden.pop(place, quota_limit)
        if limits:
            self.overridden[place] = limits[-1]
        self.granted[place] += self.overridden.get(place, quota_limit)

    def find_due(self, place: Place) -> None:
        moments = [end for one, _, end in self.expiring if one == place]
        moments += [at for name, _, start, end in self.overrides if name == place[0] for at in (start, end)]
        later = [at for at in moments if at > self.now and (place[1][1] is None or at < place[1][1])]
        self.due.pop(place, None)
        if later:
            self.due[place] = min(later)

    def is_due_before(self, place: Place, at: int) -> None:
        if place[1][1] is None or at < place[1][1]:
            self.due[place] = min(at, self.due.get(place, at))

    def current(self, name: QuotaName) -> Place:
        """The window that covers now: the one that was opened, or else the one that would be."""
        spans = sorted((one[1] for one in self.granted if one[0] == name), key=itemgetter(0))
        earlier, later = [one for one in spans if one[0] <= self.now], [one for one in spans if one[0] > self.now]
        if earlier and (earlier[-1][1] is None or earlier[-1][1] > self.now):
            return name, earlier[-1]
        previous_end, next_start = earlier[-1][1] if earlier else None, later[0][0] if later else None
        return name, opened(name.period, self.calendars[name.tenant], self.now, previous_end, next_start)

    def reserve(
        self, call_id: str, caller: Caller, tenant: int, version: int, terms: CallTerms, lease: int, state: str
    ) -> Outcome:
        self.touch(call_id)
        outcome = self._reserve(call_id, caller, tenant, version, terms, lease, state)
        if outcome == "QuotaExceeded" and any(
            place[0].template in self.falling_back and self.would_refuse(place, terms, terms.least) == "quota_exceeded"
            for place in self.enforced(self.places_of(caller))
        ):
            return f"{outcome}, then {FALLBACK}"
        return outcome

    def _reserve(
        self, call_id: str, caller: Caller, tenant: int, version: int, terms: CallTerms, lease: int, state: str
    ) -> Outcome:
        is_member = self.accounts[caller.user].tenant == tenant  # else the account is not found, and no window begins
        places = self.places_of(caller) if is_member else []
        if call_id in self.calls:
            return self.held(self.calls[call_id]) if self.calls[call_id].ended_by is None else "LedgerUnavailable"
        if (denial := self.denial(caller, tenant, version)) is not None:
            return denial
        if state == "reserved":
            if any(
                terms.cost(one[0].unit, terms.input, terms.least) > self.granted[one] for one in self.enforced(places)
            ):
                return "QuotaExceeded"  # it would never fit
            places = [place for place in places if place[0].unit != "concurrency"]
            early = [place for place in places if place[0].period not in ("minute", "hour")]
            if any(name.admits for name, _ in self.enforced(early)):
                places = early
        enforced = self.enforced(places)
        if not any(name.admits for name, _ in enforced):
            return "QuotaExceeded"
        if terms.prices is None and any(name.unit == "micro_usd" for name, _ in enforced):
            return "QuotaExceeded"
        now = {place: self.balances(place) for place in enforced}

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
        call = Call(caller, terms, places, outputs[-1], state, self.now + lease, (terms.input, 0))
        call.would_refuse, call.group = self.refusals(places, terms, outputs[-1]), self.group_of(caller)
        self.calls[call_id] = call
        return self.held(call)

    def enforced(self, places: list[Place]) -> list[Place]:
        return [place for place in places if place not in self.reporting_places]

    def refusals(self, places: list[Place], terms: CallTerms, granted: int) -> tuple[tuple[str, str], ...]:
        """What the windows that only report would have answered a call that is granted so much output."""
        said = {place: self.would_refuse(place, terms, granted) for place in places if place in self.reporting_places}
        return tuple(sorted((place[0].shown, code) for place, code in said.items() if code is not None))

    def would_refuse(self, place: Place, terms: CallTerms, granted: int) -> str | None:
        """What this window alone would have answered a call that is granted so much output."""
        unit, balances = place[0].unit, self.balances(place)
        if unit == "micro_usd" and terms.prices is None:
            return "quota_exceeded"
        least = min(terms.least, granted)
        costs = [terms.cost(unit, terms.input, output) for output in range(least, granted + 1)]
        fitting = [cost for cost in costs if balances.settled + cost <= balances.granted]
        if not fitting:
            return "quota_exceeded"
        is_held = balances.settled + balances.pending + fitting[-1] > balances.granted
        return "quota_held" if is_held else None

    def book_free(self, call_id: str, caller: Caller, tenant: int, version: int, terms: CallTerms) -> Outcome:
        """A call at no cost: a request, where these are counted. It needs no room elsewhere, and begins no window."""
        names = self.names_of(caller)
        counting = [self.place(name) for name in names if name.unit == "requests"]
        if (denial := self.denial(caller, tenant, version)) is not None:
            return denial
        if call_id not in self.calls:
            admitting = [self.current(name) for name in names if name.admits]
            future = [one for one in admitting if one not in self.granted or one in self.bases]
            reporting = [one for one in future if one[0].template in self.reporting]
            reporting += [one for one in admitting if one not in future and one in self.reporting_places]
            if len(reporting) == len(admitting):
                return "QuotaExceeded"
            now = [self.balances(place) for place in self.enforced(counting)]
            if any(one.settled >= one.granted for one in now):
                return "QuotaExceeded"
            if any(one.settled + one.pending >= one.granted for one in now):
                return "QuotaHeld"
            nothing = terms._replace(input=0, wanted=0, least=0)
            said = self.refusals(counting, nothing, 0)
            call = self.calls[call_id] = Call(caller, nothing, counting, 0, "settled", self.now, (0, 0))
            call.ended_by, call.basis = "settle", "cache"
            call.cost["requests"] = 1
            call.would_refuse, call.group = said, self.group_of(caller)
        self.touch(call_id)
        shown = [self.shown_to_readers(self.current(name)) for name in names]
        call = self.calls[call_id]
        return *self.ended(call)[:-2], tuple(sorted(shown)), call.would_refuse

    def denial(self, caller: Caller, tenant: int, version: int) -> str | None:
        """Why a caller has no access. A key is valid whatever the version of the user's tokens."""
        account = self.accounts[caller.user]
        is_latest = caller.key is not None or account.version == version
        if not (account.active and account.tenant == tenant and is_latest):
            return "Unauthenticated"
        if caller.group is not None and caller.group not in account.groups:
            return "NotInGroup"
        return None if self.may_be_tagged(tenant, caller.tags) else "TagRefused"

    def may_be_tagged(self, tenant: int, tags: tuple[str, ...]) -> bool:
        """Whether a tenant's call may have these tags, and has all that it must have."""
        named, declared = dict(tag.split("=") for tag in tags), self.tags.get(tenant, {})
        if any(owner == tenant and name not in named for owner, name in self.required):
            return False
        return all(name in declared and value in (declared[name] or {value}) for name, value in named.items())

    def extend(
        self, failed: str, call_id: str, caller: Caller, tenant: int, version: int, terms: CallTerms, lease: int
    ) -> Outcome:
        """The failed attempt is released, whatever becomes of the next."""
        self.end(failed, "release", "none", (0, 0, 0))
        return self.reserve(call_id, caller, tenant, version, terms, lease, "dispatched")

    def dispatch(
        self, call_id: str, version: int, successor: str, lease: int, worker: object, terms: CallTerms | None = None
    ) -> Outcome:
        """Held by the first worker that dispatches, also when it repeats the operation.

        A call that does not hold what applies now is replaced by one that does, if there is room for it; and any call
        by one with the terms of another model, if there are some.
        """
        self.touch(call_id, successor)
        call = self.calls[call_id]
        places = self.places_of(call.caller)
        call = self.calls.get(successor, call)
        if call.ended_by is not None:
            return "LedgerConflict"
        if call.state != "reserved":
            return self.held(call) if call.worker is worker else "LedgerConflict"
        tenant = self.accounts[call.user].tenant
        if (denial := self.denial(call.caller, tenant, version)) is not None:
            self.end(call_id, "release", "none", (0, 0, 0))
            return denial
        if terms is not None or {*places} != {*call.places}:
            del self.calls[call_id]
            wanted = terms or call.terms._replace(wanted=call.output, least=call.output)
            outcome = self.reserve(successor, call.caller, tenant, version, wanted, lease, "dispatched")
            self.calls[call_id] = call
            if isinstance(outcome, str):
                return outcome.partition(",")[0]
            self.end(call_id, "release", "none", (0, 0, 0))
            call = self.calls[successor]
        else:
            del self.calls[call_id]
            call.would_refuse = self.refusals(call.places, call.terms._replace(least=call.output), call.output)
            self.calls[call_id] = call
        call.state, call.lease, call.worker = "dispatched", self.now + lease, worker
        return self.held(call)

    def withdraw(self, call_id: str, reason: str) -> Outcome:
        """Whether a call of which nothing was sent ends for this reason, now or at an earlier try."""
        self.touch(call_id)
        call = self.calls[call_id]
        if call.ended_by is not None:
            return call.withdrawn == reason
        if call.state != "reserved":
            return False
        self.end(call_id, "release", "none", (0, 0, 0))
        call.withdrawn = reason
        return True

    def renew(self, checkpoints: dict[str, tuple[int, int]], lease: int) -> Outcome:
        gone = set()
        self.touch(*checkpoints)
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
        self.touch(call_id)
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
        self.touch(call_id)
        call = self.calls.get(call_id)
        if call is None or call.ended_by is not None or call.lease >= self.now:
            return None
        if call.state == "reserved":
            self._finish(call, "expire", "none", (0, 0, 0))
        else:
            self._finish(call, "expire", "unknown", (*call.checkpoint, 0))
        return self.ended(call)

    def lapsed(self) -> set[str]:
        return {call_id for call_id, call in self.calls.items() if call.ended_by is None and call.lease < self.now}

    def administer(
        self, operation: str, acts: list[tuple[str, QuotaName, int]], times: tuple[int, int] = (0, 0)
    ) -> Outcome:
        """Acts are ("limit", quota, limit), the same with "report", "fallback" or "block" for what becomes of calls
        without room, ("grant", quota, amount) until the second of the `times` if it is not 0, ("override", quota,
        limit) between them, and ("remove", quota, 0): all or none.
        """
        if operation in self.administered:
            acts = [one for one in acts if one[0] != "remove"]
            if any(name.template not in self.limits for _, name, _ in acts):
                return "NotFound"
            return tuple(self.shown(self.place(name)) for _, name, _ in acts)
        if len({name for _, name, _ in acts}) < len(acts):
            return "InvalidRequest"
        for act, name, amount in acts:
            if act in ("grant", "override", "remove") and name.template not in self.limits:
                return "NotFound"
            is_odd = name.unit == "concurrency" and name.period != "total"
            if is_odd or self._is_impossible(act, name, amount, times):
                return "InvalidRequest"
        for act, name, amount in acts:
            self.limits.setdefault(name.template, 0)
            self._change(act, self.place(name), amount, times)
            if act == "remove":
                self.remove(name)
        self.administered.add(operation)
        return self.administer(operation, acts, times)

    def _is_impossible(self, act: str, name: QuotaName, amount: int, times: tuple[int, int]) -> bool:
        """A refused act opens no window, and nothing that is due happens with it."""
        if act == "roll" and name.period == "total" and amount // 2 > 0:
            return True
        if name.is_template and (act == "override" or (act == "grant") != bool(name.value)):
            return True
        if act == "remove":
            return False
        place, old = self.current(name), self.limits.get(name.template, 0)
        if place not in self.granted and name.template in self.limits:
            old_granted = old + self.rolling_into(place)
        else:
            old_granted = self.granted.get(place, old)
        granted, applied = old_granted + old - self.bases.get(place, old), self.overridden.get(place)
        if self.due.get(place, self.now + 1) <= self.now:
            granted -= sum(more for one, more, end in self.expiring if one == place and end <= self.now)
        if place not in self.granted or self.due.get(place, self.now + 1) <= self.now:
            now = [limit for one, limit, start, end in self.overrides if one == name and start <= self.now < end]
            granted += (now[-1] if now else old) - (old if applied is None else applied)
            applied = now[-1] if now else None
        if act == "grant":
            return amount < 0 or granted + amount > MAX_GRANTED or 0 < times[1] <= self.now
        if act == "override" and times[1] <= max(times[0], self.now):
            return True
        more = amount - (old if applied is None else applied)
        if act != "override" and applied is not None:
            more = 0
        return not 0 <= amount <= MAX_GRANTED or not 0 <= granted + more <= MAX_GRANTED

    def _change(self, act: str, place: Place, amount: int, times: tuple[int, int]) -> None:
        name = place[0]
        if act == "remove":
            return
        if act == "grant":
            self.granted[place] += amount
            if times[1] and (place[1][1] is None or times[1] < place[1][1]):
                self.expiring.append((place, amount, times[1]))
                self.is_due_before(place, times[1])
        elif act == "override":
            start = max(times[0], self.now)
            self.overrides.append((name, amount, start, times[1]))
            if start == self.now:
                self.granted[place] += amount - self.overridden.get(place, self.limits[name])
                self.overridden[place] = amount
            self.is_due_before(place, times[1] if start == self.now else start)
        else:
            if place not in self.overridden:
                self.granted[place] += amount - self.limits[name]
            self.limits[name] = amount
            self._set_rule(act, place)

    def _set_rule(self, act: str, place: Place) -> None:
        if act == "limit":
            return
        if act == "roll":
            self.caps.pop(place[0], None)
            if self.limits[place[0]] // 2:
                self.caps[place[0]] = self.limits[place[0]] // 2
            return
        (self.falling_back.add if act == "fallback" else self.falling_back.discard)(place[0])
        if act == "report":
            self.reporting.add(place[0])
            self.reporting_places.add(place)
        else:
            self.reporting.discard(place[0])
            self.reporting_places.discard(place)

    def refund(self, call_id: str, *, again: bool) -> Outcome:
        self.touch(call_id)
        call = self.calls.get(call_id)
        if call is None:
            return "NotFound"
        if call.refunded and again:
            return call.cost["tokens"]
        if call.state != "settled" or call.refunded or not any(call.cost[unit] for unit in PRICED):
            return "LedgerConflict"
        call.refunded = True
        return call.cost["tokens"]

    def shown(self, place: Place) -> tuple[str, int, int, int]:
        """A window as people see it: its quota, limit, used, reserved."""
        granted, settled, pending, _ = self.balances(place)
        return place[0].shown, granted, settled, pending

    def shown_to_readers(self, place: Place) -> tuple[str, int, int, int]:
        """What a window will be shown as once what is due has happened, which nothing has written yet."""
        name, old = place[0], self.limits[place[0].template]
        applied, is_due = self.overridden.get(place, old), self.due.get(place, self.now + 1) <= self.now
        limits = [limit for one, limit, start, end in self.overrides if one == name and start <= self.now < end]
        if place not in self.granted:
            return name.shown, (limits[-1] if limits else old) + self.rolling_into(place), 0, 0
        shown, granted, settled, pending = self.shown(place)
        granted += old - self.bases.get(place, old)
        if is_due:
            granted += (limits[-1] if limits else old) - applied
            granted -= sum(more for one, more, end in self.expiring if one == place and end <= self.now)
        return shown, granted, settled, pending

    def held(self, call: Call) -> Outcome:
        return "held", call.output, tuple(sorted(map(self.shown, call.places))), call.would_refuse

    def ended(self, call: Call) -> tuple[object, ...]:
        running = [place for place in call.places if place[1][1] is None or place[1][1] > self.now]
        balances = tuple(sorted(map(self.shown, running or call.places)))
        money = None if call.terms.prices is None else call.cost["micro_usd"]
        return "closed", call.basis, call.usage, call.cost["tokens"], money, call.overrun, balances, ()

    def _cost_of(self, call: Call, basis: str, usage: tuple[int, int, int]) -> dict[str, int]:
        """What a call cost, forgiving what is unknown: a report in full, everything else at most the hold."""
        costs = {}
        for unit in SUFFIXES:
            cost = 0 if basis == "none" or unit == "concurrency" else call.terms.cost(unit, *usage)
            costs[unit] = cost if basis == "provider" else min(cost, call.held(unit))
        return costs

    def _finish(self, call: Call, how: str, basis: str, usage: tuple[int, int, int]) -> None:
        cost = self._cost_of(call, basis, usage)
        if basis == "unknown":
            if how == "expire" or self._is_forgiven(call, call.held("tokens") - cost["tokens"]):
                call.forgiven |= {unit: call.held(unit) - cost[unit] for unit in PRICED}
            else:
                cost |= {unit: call.held(unit) for unit in PRICED}
        call.state = "released" if basis == "none" else "settled"
        call.ended_by, call.basis, call.usage, call.cost = how, basis, usage, cost
        call.overrun = any(cost[unit] > call.held(unit) for unit in cost)

    def _is_forgiven(self, call: Call, rest: int) -> bool:
        """5 % of the grant of the user's shortest window, or one call."""
        own = [place for place in call.places if place[0].admits]
        balances = self.balances(min(own, key=lambda place: PERIODS.index(place[0].period)))
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
