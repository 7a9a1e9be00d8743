"""The state machine: Hypothesis drives the ledger and its model through the verbs, in any order; they must agree."""

import itertools
from typing import ClassVar

from calendar_model import PERIODS, natural
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ledger_model import CallTerms
from ledger_world import Fate, World
from side_by_side import (
    EACH,
    EACH_TAG,
    IN_GROUP,
    LEASE_MS,
    OTHERWISE_TAGGED,
    TAGGED,
    TALKING,
    WITH_KEY,
    Move,
    SideBySide,
)

from support.depth import DEPTH

AGREED = settings(
    max_examples=DEPTH.machine_examples,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)

_examples = itertools.count(1)


amounts = st.one_of(st.integers(0, 60), st.integers(0, 400))
limits = st.one_of(st.integers(300, 6_000), st.integers(300, 6_000), st.integers(0, 300))
users = st.sampled_from([0, 0, 0, 1, 1, 2])
owners = st.sampled_from([0, 0, 1, 1, 2, WITH_KEY, IN_GROUP, IN_GROUP, TALKING, TAGGED, OTHERWISE_TAGGED])
"""Of calls."""
quota_owners = st.sampled_from([*range(max(EACH) + 1), TAGGED, EACH_TAG])
changed_owners = st.sampled_from([*range(TAGGED + 1), EACH_TAG, EACH_TAG + 1])
units = st.sampled_from(["tokens", "tokens", "tokens", "micro_usd", "requests", "concurrency"])
periods = st.sampled_from(PERIODS)
prices = st.sampled_from([None, (150_000, 75_000, 600_000), (1_000_001, 500_000, 3_999_999), (2_000_000, 100_000, 0)])
usages = st.tuples(amounts, amounts, st.integers(0, 50))
bases = st.sampled_from(["provider", "counted", "unknown", "unknown"])
picks = st.integers(0, 10**6)
fates = st.sampled_from([Fate.LANDS, *Fate])
moments = st.sampled_from([0, 0, 1, 20_000, -1_000])
acts_of_an_admin = st.sampled_from(["limit", "limit", "grant", "report", "block", "fallback", "roll"])


@st.composite
def call_terms(draw: st.DrawFn) -> CallTerms:
    """Small calls, so that several fit; some may be clamped."""
    wanted = draw(st.integers(0, 160))
    least = draw(st.one_of(st.just(wanted), st.integers(0, wanted)))
    weight = draw(st.sampled_from([1_000, 1_000, 0, 1, 333, 1_500, 3_333]))
    return CallTerms(draw(st.integers(0, 60)), wanted, least, weight, draw(prices))


def few_calls(unit: str, amount: int) -> int:
    """An amount in this unit. A limit in calls is small, so that some calls reach it."""
    return amount if unit in ("tokens", "micro_usd") else amount % 9


class LedgerMachine(RuleBasedStateMachine):
    """The rules. A subclass names the world."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.both = SideBySide(self.world, next(_examples))

    @invariant()
    def agrees_with_the_model(self) -> None:
        self.both.check_agreement()

    @initialize(
        quotas=st.lists(st.tuples(quota_owners, units, periods, limits), min_size=1, max_size=5),
        own=st.tuples(periods, periods, limits, limits),
        first=st.lists(call_terms(), min_size=3, max_size=6),
    )
    def populate(
        self, quotas: list[tuple[int, str, str, int]], own: tuple[str, str, int, int], first: list[CallTerms]
    ) -> None:
        """Quotas, some of the first two users' own; and calls of theirs."""
        wanted = {
            self.both.quota_name(owner, unit, "total" if unit == "concurrency" else period): few_calls(unit, limit)
            for owner, unit, period, limit in quotas
        }
        wanted[self.both.quota_name(0, "tokens", own[0])] = own[2]
        wanted[self.both.quota_name(1, "tokens", own[1])] = own[3]
        self.both.make([self.both.administering([("limit", name, limit) for name, limit in wanted.items()])])
        self.both.change_membership(0, "member")
        self.both.make([self.first_call(number, terms) for number, terms in enumerate(first)])

    def first_call(self, number: int, terms: CallTerms) -> Move:
        return self.both.reserving(number % 2, terms, dispatch=number % 3 > 0)

    @rule(owner=owners, terms=call_terms(), dispatch=st.booleans(), fate=fates)
    def reserve(self, owner: int, terms: CallTerms, dispatch: bool, fate: Fate) -> None:
        self.both.make([self.both.reserving(owner, terms, dispatch=dispatch)], fate)

    @rule(owners_and_terms=st.lists(st.tuples(owners, call_terms()), min_size=2, max_size=5), fate=fates)
    def reserve_several_at_once(self, owners_and_terms: list[tuple[int, CallTerms]], fate: Fate) -> None:
        self.both.make([self.both.reserving(owner, terms, dispatch=True) for owner, terms in owners_and_terms], fate)

    @precondition(lambda self: self.both.model.calls)
    @rule(pick=picks, terms=call_terms(), fate=fates)
    def extend(self, pick: int, terms: CallTerms, fate: Fate) -> None:
        """Another attempt, mostly of a call that is open."""
        self.both.make([self.both.extending(self.both.pick(pick), terms)], fate)

    @precondition(lambda self: self.both.model.calls)
    @rule(picked=st.lists(st.tuples(picks, call_terms()), min_size=2, max_size=4), fate=fates)
    def extend_several_at_once(self, picked: list[tuple[int, CallTerms]], fate: Fate) -> None:
        self.both.make([self.both.extending(self.both.pick(pick), terms) for pick, terms in picked], fate)

    @rule(owner=owners, terms=call_terms(), fate=fates)
    def book_free(self, owner: int, terms: CallTerms, fate: Fate) -> None:
        """Mostly where some windows of the user have not begun, as the time moves on."""
        self.both.make([self.both.booking_free(owner, terms)], fate)

    @rule(first=owners, second=owners, terms=call_terms(), usage=usages, fate=fates)
    def book_free_beside_a_reserve(
        self, first: int, second: int, terms: CallTerms, usage: tuple[int, int, int], fate: Fate
    ) -> None:
        """Before it and after it, and after the end of another call in the same transaction."""
        free, call = self.both.booking_free(first, terms), self.both.reserving(second, terms, dispatch=True)
        ended = [self.both.settling(one, "provider", usage) for one in self.both.open()[:1]]
        self.both.make([*ended, free, call, self.both.booking_free(first, terms)], fate)

    @rule(owner=users, terms=call_terms())
    def book_free_with_an_old_credential(self, owner: int, terms: CallTerms) -> None:
        assert self.both.make([self.both.booking_free(owner, terms, version=-1)]) == ["Unauthenticated"]

    @rule(owner=users, terms=call_terms())
    def reserve_as_a_member_of_another_tenant(self, owner: int, terms: CallTerms) -> None:
        outcomes = self.both.make([self.both.reserving(owner, terms, dispatch=True, tenant=int(owner < 2))])
        assert outcomes == ["Unauthenticated"]

    @precondition(lambda self: self.both.model.calls)
    @rule(pick=picks, terms=st.none() | call_terms(), fate=fates)
    def dispatch(self, pick: int, terms: CallTerms | None, fate: Fate) -> None:
        """By the terms of its reserve, or by those of another model."""
        self.both.make([self.both.dispatching(self.both.pick(pick), terms=terms)], fate)

    @precondition(lambda self: self.both.model.calls)
    @rule(pick=picks, fate=fates)
    def withdraw(self, pick: int, fate: Fate) -> None:
        self.both.make([self.both.withdrawing(self.both.pick(pick))], fate)

    @precondition(lambda self: self.both.model.calls)
    @rule(pick=picks, fate=fates)
    def dispatch_with_an_old_credential(self, pick: int, fate: Fate) -> None:
        """What was reserved with it is released."""
        self.both.make([self.both.dispatching(self.both.pick(pick), version=-1)], fate)

    @precondition(lambda self: self.both.model.calls)
    @rule(picked=st.lists(st.tuples(picks, amounts, amounts), min_size=1, max_size=4), fate=fates)
    def renew(self, picked: list[tuple[int, int, int]], fate: Fate) -> None:
        self.both.make([self.both.renewing({self.both.pick(pick): (one, two) for pick, one, two in picked})], fate)

    @precondition(lambda self: self.both.model.calls)
    @rule(pick=picks, basis=bases, usage=usages, fate=fates)
    def settle(self, pick: int, basis: str, usage: tuple[int, int, int], fate: Fate) -> None:
        self.both.make([self.both.settling(self.both.pick(pick), basis, usage)], fate)

    @precondition(lambda self: self.both.model.calls)
    @rule(pick=picks, one=usages, two=usages)
    def settle_twice(self, pick: int, one: tuple[int, int, int], two: tuple[int, int, int]) -> None:
        call_id = self.both.pick(pick)
        first = self.both.make([self.both.settling(call_id, "provider", one)])
        assert self.both.make([self.both.settling(call_id, "provider", two)]) == first

    @precondition(lambda self: self.both.open())
    @rule(most=st.integers(1, 6), fate=fates)
    def settle_several_unknown_outcomes(self, most: int, fate: Fate) -> None:
        """Several calls at once: what is not known of them is forgiven, up to the cap."""
        usages_ = {call_id: (*self.both.model.calls[call_id].checkpoint, 0) for call_id in self.both.open()[:most]}
        self.both.make([self.both.settling(call_id, "unknown", usage) for call_id, usage in usages_.items()], fate)

    @precondition(lambda self: self.both.expired())
    @rule(pick=picks, basis=bases, usage=usages, fate=fates)
    def settle_late(self, pick: int, basis: str, usage: tuple[int, int, int], fate: Fate) -> None:
        expired = self.both.expired()
        self.both.make([self.both.settling(expired[pick % len(expired)], basis, usage)], fate)

    @precondition(lambda self: self.both.expired())
    @rule(pick=picks, fate=fates)
    def release_late(self, pick: int, fate: Fate) -> None:
        expired = self.both.expired()
        self.both.make([self.both.releasing(expired[pick % len(expired)])], fate)

    @precondition(lambda self: self.both.model.calls)
    @rule(pick=picks, fate=fates)
    def release(self, pick: int, fate: Fate) -> None:
        self.both.make([self.both.releasing(self.both.pick(pick))], fate)

    @precondition(lambda self: self.both.model.calls)
    @rule(slept=st.sampled_from([0, LEASE_MS, LEASE_MS + 1, LEASE_MS + 1]), fate=fates)
    def sweep(self, slept: int, fate: Fate) -> None:
        self.both.at(self.both.model.now + slept)
        lapsed = dict(self.both.world.lapsed(self.both.process))
        mine = lapsed.keys() & self.both.model.calls.keys()
        assert all(lapsed[call_id] == self.both.tenant_of(call_id) for call_id in mine)
        assert mine == self.both.model.lapsed()
        if mine:
            self.both.make([self.both.expiring(call_id) for call_id in sorted(mine)], fate)

    @precondition(lambda self: self.both.model.calls)
    @rule(pick=picks)
    def expire(self, pick: int) -> None:
        self.both.make([self.both.expiring(self.both.pick(pick))])

    @precondition(lambda self: any(call.ended_by for call in self.both.model.calls.values()))
    @rule(pick=picks, fate=fates)
    def refund(self, pick: int, fate: Fate) -> None:
        ended = [call_id for call_id, call in self.both.model.calls.items() if call.ended_by]
        self.both.make([self.both.refunding(ended[pick % len(ended)])], fate)

    @precondition(lambda self: self.both.model.applying())
    @rule(pick=picks, again=st.booleans(), amount=limits, fate=fates)
    def remove_a_quota(self, pick: int, again: bool, amount: int, fate: Fate) -> None:
        """A quota that is set later has the name and nothing else of it."""
        names = self.both.model.applying()
        name = names[pick % len(names)]
        self.both.make([self.both.administering([("remove", name, 0)])], fate)
        if again:
            self.both.make([self.both.administering([("limit", name, few_calls(name.unit, amount))])], fate)

    @precondition(lambda self: self.both.model.applying())
    @rule(pick=picks, act=acts_of_an_admin, amount=st.integers(-200, 3_000), fate=fates)
    def change_a_quota(self, pick: int, act: str, amount: int, fate: Fate) -> None:
        names = self.both.model.applying()
        name = names[pick % len(names)]
        self.both.make([self.both.administering([(act, name, few_calls(name.unit, amount))])], fate)

    @rule(
        acts=st.lists(
            st.tuples(acts_of_an_admin, changed_owners, units, periods, limits),
            min_size=1,
            max_size=2,
        ),
        fate=fates,
    )
    def administer(self, acts: list[tuple[str, int, str, str, int]], fate: Fate) -> None:
        """Any quota, also new ones, also grants to quotas that do not exist: all or none."""
        named = [
            (act, self.both.quota_name(owner, unit, period), few_calls(unit, amount))
            for act, owner, unit, period, amount in acts
        ]
        self.both.make([self.both.administering(named)], fate)

    @precondition(lambda self: self.both.model.applying())
    @rule(
        pick=picks,
        act=st.sampled_from(["grant", "override"]),
        amount=limits,
        start=moments,
        length=st.sampled_from([1, 20_000, 90_000, 86_400_000]),
        fate=fates,
    )
    def change_a_quota_for_a_time(self, pick: int, act: str, amount: int, start: int, length: int, fate: Fate) -> None:
        names = self.both.model.applying()
        name, now = names[pick % len(names)], self.both.model.now
        times = now + start, now + start + length
        self.both.make([self.both.administering([(act, name, few_calls(name.unit, amount))], times)], fate)

    @precondition(lambda self: self.both.model.due)
    @rule(past=st.sampled_from([-1, 0, 1]))
    def wait_for_what_is_due(self, past: int) -> None:
        """To the last millisecond before a grant or an override begins or ends, or the first or second after it."""
        later = [at for at in self.both.model.due.values() if at > self.both.model.now]
        if later:
            self.both.at(min(later) + past)

    @precondition(lambda self: self.both.model.calls and self.both.model.applying())
    @rule(
        pick=st.tuples(picks, picks, picks),
        basis=bases,
        usage=usages,
        owner=owners,
        terms=call_terms(),
        act=acts_of_an_admin,
        amount=limits,
        fate=fates,
    )
    def run_every_operation_in_one_batch(
        self,
        pick: tuple[int, int, int],
        basis: str,
        usage: tuple[int, int, int],
        owner: int,
        terms: CallTerms,
        act: str,
        amount: int,
        fate: Fate,
    ) -> None:
        one, two, three = map(self.both.pick, pick)
        names = self.both.model.applying()
        name = names[pick[0] % len(names)]
        if (act == "roll" and name.period == "total") or (act == "grant" and name.is_template):
            act = "limit"  # a refused act rolls the whole batch back
        moves = [
            self.both.expiring(three),
            self.both.reserving(owner, terms, dispatch=False),
            self.both.extending(two, terms),
            self.both.administering([(act, name, amount)]),
            self.both.renewing({one: (5, 5), two: (7, 0)}),
            self.both.settling(one, basis, usage),
            self.both.settling(one, basis, usage),
            self.both.releasing(two),
            self.both.dispatching(three),
            self.both.booking_free(owner, terms),
        ]
        self.both.make(moves, fate)

    @rule(owner=users, terms=call_terms())
    def replace_a_credential(self, owner: int, terms: CallTerms) -> None:
        """By another connection: it counts at the very next reserve."""
        user = self.both.users[owner]
        account = self.both.model.accounts[user]
        account.version += 1
        self.both.world.execute(f"UPDATE users SET token_version = {account.version} WHERE id = {user}")
        outcomes = self.both.make([self.both.reserving(owner, terms, dispatch=True, version=-1)])
        assert outcomes == ["Unauthenticated"]

    @rule(owner=users, terms=call_terms(), table=st.sampled_from(["users", "tenants"]))
    def disable_for_a_while(self, owner: int, terms: CallTerms, table: str) -> None:
        """A user or a tenant, by another connection: it counts at the very next reserve."""
        user = self.both.users[owner]
        account = self.both.model.accounts[user]
        row = user if table == "users" else account.tenant
        self.both.world.execute(f"UPDATE {table} SET disabled_at = '2024-01-01 00:00:00' WHERE id = {row}")
        account.active = False
        assert self.both.make([self.both.reserving(owner, terms, dispatch=True)]) == ["Unauthenticated"]
        self.both.world.execute(f"UPDATE {table} SET disabled_at = NULL WHERE id = {row}")
        account.active = True

    @rule(
        tenant=st.integers(0, 1),
        zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Pacific/Auckland"]),
        reset_day=st.sampled_from([1, 15, 29, 31]),
    )
    def change_a_calendar(self, tenant: int, zone: str, reset_day: int) -> None:
        self.both.change_calendar(tenant, zone, reset_day)

    @rule(owner=st.integers(0, 1), state=st.sampled_from(["none", "member", "default", "default"]))
    def change_a_membership(self, owner: int, state: str) -> None:
        self.both.change_membership(owner, state)

    @rule(state=st.sampled_from(["any", "any", "one value", "closed", "required"]))
    def change_a_tag(self, state: str) -> None:
        self.both.change_tag(state)

    @rule(restarted=st.booleans())
    def switch_process(self, restarted: bool) -> None:
        """Both remember what they may of the rows; neither may remember what the other has changed."""
        self.both.process = 1 - self.both.process
        if restarted:
            self.both.world.restart(self.both.process)

    @rule(step=st.sampled_from([1, 20_000, LEASE_MS, -1_500]))
    def wait(self, step: int) -> None:
        self.both.at(self.both.model.now + step)

    @rule(period=st.sampled_from(PERIODS[:-1]), past=st.sampled_from([-1, 0, 1]))
    def wait_for_the_next_window(self, period: str, past: int) -> None:
        """To the last millisecond of this window of the first tenant's calendar, or the first or second of the next."""
        _, end = natural(period, self.both.model.calendars[self.both.tenants[0]], self.both.model.now)
        assert end is not None
        self.both.at(end + past)
