"""Defects in which calls are admitted, and in what these hold."""

from dataclasses import replace

import pytest
import scenarios_of_calls
import scenarios_of_limits
from defect_detection import Detectable

from tollkeeper.chat import Usage
from tollkeeper.errors import QuotaRefusal
from tollkeeper.quota.rules import admission, decide, free_calls
from tollkeeper.quota.rules import settlement as ends
from tollkeeper.quota.rules.charge_row import ChargeRow
from tollkeeper.quota.rules.models import Basis, EntryKind, Unit
from tollkeeper.quota.rules.operations import Hold, Replayed, Reserve
from tollkeeper.quota.rules.page import Account, Page, QuotaRow, WindowHold
from tollkeeper.quota.time_sorted_ids import month_of


def only_what_is_settled_counts(patch: pytest.MonkeyPatch) -> None:
    """A reserve does not look at what calls in flight hold."""

    def reserve(page: Page, operation: Reserve) -> Hold | Replayed:
        pending = {window.id: window.pending for window in page.current_windows.values()}
        for window in page.current_windows.values():
            window.pending = 0
        try:
            return genuine(page, operation)
        finally:
            for window in page.current_windows.values():
                window.pending += pending[window.id]

    genuine = admission.reserve
    patch.setattr(decide, "reserve", reserve)


def a_part_is_enough(patch: pytest.MonkeyPatch) -> None:
    """Where the tenant's quota refuses, the user's own alone is held."""

    def reserve(page: Page, operation: Reserve) -> Hold | Replayed:
        try:
            return genuine(page, operation)
        except QuotaRefusal:
            account = page.accounts[operation.caller.user_id]
            own = tuple(quota for quota in account.quotas if quota.key.subject.user_id is not None)
            page.accounts[operation.caller.user_id] = replace(account, quotas=own)
            return genuine(page, operation)

    genuine = admission.reserve
    patch.setattr(decide, "reserve", reserve)


def a_refusal_keeps_its_hold(patch: pytest.MonkeyPatch) -> None:
    """What was held before the quota that refused is not given back."""

    def reserve(page: Page, operation: Reserve) -> Hold | Replayed:
        try:
            return genuine(page, operation)
        except QuotaRefusal:
            first = page.current_windows[page.accounts[operation.caller.user_id].quotas[0].id]
            page.post(first, EntryKind.RESERVE, operation.charge_id, month_of(operation.charge_id), pending=1)
            raise

    genuine = admission.reserve
    patch.setattr(decide, "reserve", reserve)


def a_quota_of_any_key(patch: pytest.MonkeyPatch) -> None:
    """A call by a key does not hold on the quota of that key."""
    patch.setattr(Account, "quotas_of", lambda account, billing: account.quotas)


def a_key_is_its_user(patch: pytest.MonkeyPatch) -> None:
    """The quota of a key admits calls, as one of the user's own does."""
    genuine = QuotaRow.__post_init__

    def post_init(quota: QuotaRow) -> None:
        genuine(quota)
        quota.is_own_token_quota = quota.key.unit is Unit.TOKENS and quota.key.subject.user_id is not None

    patch.setattr(QuotaRow, "__post_init__", post_init)


def a_group_for_whoever_was_in_it(patch: pytest.MonkeyPatch) -> None:
    """A call for a group is admitted after the membership has ended."""
    patch.setattr(Account, "require_group", lambda account, group: None)


def no_default_group(patch: pytest.MonkeyPatch) -> None:
    """A call that names no group counts for none."""
    patch.setattr(Account, "group_of", lambda account, billing: account.groups.get(billing.group))


def a_hit_for_whoever_had_an_account(patch: pytest.MonkeyPatch) -> None:
    """A call at no cost does not look at the credential."""
    patch.setattr(free_calls, "valid_account", lambda page, caller: page.accounts[caller.user_id])


def a_hit_is_no_request(patch: pytest.MonkeyPatch) -> None:
    """An answer from the response cache is not counted."""
    patch.setattr(free_calls, "fit_request", lambda windows, terms, now_ms: [])


def a_hit_needs_no_room(patch: pytest.MonkeyPatch) -> None:
    """An answer from the response cache is counted, also above the limit."""
    patch.setattr(free_calls, "fit_request", lambda windows, terms, now_ms: [WindowHold(one, 1) for one in windows])


def a_released_call_is_a_request(patch: pytest.MonkeyPatch) -> None:
    """A call that the provider refused counts where requests are counted."""

    def costs(charge: ChargeRow, basis: Basis, usage: Usage, *, forgive: bool) -> ends.Costs:
        return genuine(charge, basis, usage, forgive=forgive)._replace(requests=1)

    genuine = ends._costs
    patch.setattr(ends, "_costs", costs)


def a_slot_is_spent(patch: pytest.MonkeyPatch) -> None:
    """The slot of a call that has ended is not free again."""
    genuine = ends.Costs.of
    patch.setattr(ends.Costs, "of", lambda costs, unit: 1 if unit is Unit.CONCURRENCY else genuine(costs, unit))


def a_slot_is_forgiven(patch: pytest.MonkeyPatch) -> None:
    """The slot of a lost call counts as forgiven, as the rest of its tokens does."""
    patch.setattr(ends, "_unspent", lambda charge, unit, costs: charge.held(unit) - costs.of(unit))


def a_waiting_job_has_a_slot(patch: pytest.MonkeyPatch) -> None:
    """A job is in flight from its reserve on."""
    patch.setattr(QuotaRow, "is_held_at_dispatch", property(lambda quota: quota.key.period.held_at_dispatch))


DEFECTS: list[Detectable] = [
    Detectable(only_what_is_settled_counts, scenarios_of_calls.refusals),
    Detectable(a_part_is_enough, scenarios_of_calls.refusals),
    Detectable(a_refusal_keeps_its_hold, scenarios_of_calls.refusals),
    Detectable(a_quota_of_any_key, scenarios_of_limits.quota_of_a_key),
    Detectable(a_key_is_its_user, scenarios_of_limits.quota_of_a_key),
    Detectable(a_group_for_whoever_was_in_it, scenarios_of_limits.quota_of_a_group),
    Detectable(no_default_group, scenarios_of_limits.quota_of_a_group),
    Detectable(a_hit_for_whoever_had_an_account, scenarios_of_calls.answers_from_the_cache),
    Detectable(a_hit_is_no_request, scenarios_of_calls.answers_from_the_cache),
    Detectable(a_hit_needs_no_room, scenarios_of_calls.answers_from_the_cache),
    Detectable(a_released_call_is_a_request, scenarios_of_calls.slots),
    Detectable(a_slot_is_spent, scenarios_of_calls.slots),
    Detectable(a_slot_is_forgiven, scenarios_of_calls.slots),
    Detectable(a_waiting_job_has_a_slot, scenarios_of_calls.slots),
]
