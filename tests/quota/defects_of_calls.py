"""Defects in how a call begins and ends."""

from typing import Any

import pytest
import scenarios_of_calls as scenarios
from defect_detection import Detectable

from tollkeeper.chat import Usage
from tollkeeper.quota.rules import admission, decide, dispatch
from tollkeeper.quota.rules import settlement as ends
from tollkeeper.quota.rules.charge_row import ChargeRow
from tollkeeper.quota.rules.models import Basis, EntryKind
from tollkeeper.quota.rules.operations import (
    ClosedCharge,
    Dispatch,
    Expire,
    Extend,
    Hold,
    Release,
    Replayed,
    Reserve,
    Settle,
)
from tollkeeper.quota.rules.page import Page, ReadSet, WindowRow
from tollkeeper.quota.stores.sqlite.row_cache import RowCache


def no_compare_and_set(patch: pytest.MonkeyPatch) -> None:
    """Whoever comes second closes the charge again."""

    def close(
        page: Page, charge: ChargeRow, kind: EntryKind, basis: Basis, usage: Usage, error: str | None
    ) -> ClosedCharge:
        charge.closed_ms = None
        return genuine(page, charge, kind, basis, usage, error)

    genuine = ends.close
    patch.setattr(decide, "close", close)


def nothing_for_a_count(patch: pytest.MonkeyPatch) -> None:
    """Where the provider reported no usage, nothing is charged."""

    def settle(page: Page, operation: Settle) -> Any:
        if operation.basis is Basis.COUNTED:
            operation.usage = Usage(0, 0)
        return genuine(page, operation)

    genuine = decide.settle
    patch.setattr(decide, "settle", settle)


def forgiveness_without_end(patch: pytest.MonkeyPatch) -> None:
    """Every unknown outcome is forgiven."""
    patch.setattr(ends, "MAX_FORGIVEN_PERCENT", 10**9)


def a_sequence_that_stands_still(patch: pytest.MonkeyPatch) -> None:
    """A release writes its line, and the window keeps its number."""

    def post(page: Page, window: WindowRow, kind: EntryKind, *values: Any, **amounts: Any) -> None:
        genuine(page, window, kind, *values, **amounts)
        window.sequence -= kind is EntryKind.RELEASE

    genuine = Page.post
    patch.setattr(Page, "post", post)


def a_balance_without_its_entry(patch: pytest.MonkeyPatch) -> None:
    """A refund moves the balance and writes no line."""

    def post(page: Page, window: WindowRow, kind: EntryKind, *values: Any, **amounts: Any) -> None:
        genuine(page, window, kind, *values, **amounts)
        if kind is EntryKind.REFUND:
            page.new_entries.pop()
            window.sequence -= 1

    genuine = Page.post
    patch.setattr(Page, "post", post)


def the_late_truth_is_dropped(patch: pytest.MonkeyPatch) -> None:
    """What comes after an expiry changes nothing."""

    def close(
        page: Page, charge: ChargeRow, kind: EntryKind, basis: Basis, usage: Usage, error: str | None
    ) -> ClosedCharge:
        if not charge.open:
            return ends.closed_charge(page, charge)
        return genuine(page, charge, kind, basis, usage, error)

    genuine = ends.close
    patch.setattr(decide, "close", close)


def leases_do_not_count(patch: pytest.MonkeyPatch) -> None:
    """A sweep ends calls that are alive."""

    def expire(page: Page, operation: Expire) -> ClosedCharge | None:
        if operation.charge_id in page.charges:
            page.charges[operation.charge_id].lease_ms = 0
        return genuine(page, operation)

    genuine = decide.expire
    patch.setattr(decide, "expire", expire)


def released_whatever_was_sent(patch: pytest.MonkeyPatch) -> None:
    """A lapsed call is given back whole, as if nothing had gone out."""
    patch.setattr(decide, "usage_at_expiry", lambda charge: (Basis.NONE, Usage(0, 0)))


def a_release_that_books(patch: pytest.MonkeyPatch) -> None:
    """A release charges the hold."""

    def release(page: Page, operation: Release) -> Any:
        charge = page.charges.get(operation.charge_id)
        if charge is None:
            return None
        return ends.close(page, charge, EntryKind.RELEASE, Basis.COUNTED, Usage(10**6, 0), None)

    patch.setattr(decide, "release", release)


def a_run_again_is_new(patch: pytest.MonkeyPatch) -> None:
    """After a lost answer to COMMIT, a reserve holds once more."""

    def declare_reads(operation: Reserve, read_set: ReadSet, *, retried: bool) -> None:
        operation.charge_id += "x" * retried
        genuine(operation, read_set, retried=False)

    genuine = Reserve.declare_reads
    patch.setattr(Reserve, "declare_reads", declare_reads)


def memory_of_what_others_changed(patch: pytest.MonkeyPatch) -> None:
    """Rows are remembered although another process has committed since, or although the batch failed."""
    patch.setattr(RowCache, "clear", lambda cache: None)


def a_refused_extension_keeps_what_failed(patch: pytest.MonkeyPatch) -> None:
    """The failed attempt is released only when there is a next one."""

    def extend(page: Page, operation: Extend) -> Hold | Replayed:
        held = admission.reserve(page, operation)
        genuine(page, operation)
        return held

    genuine = admission.extend
    patch.setattr(decide, "extend", extend)


def a_failed_attempt_is_paid(patch: pytest.MonkeyPatch) -> None:
    """What was sent before the failure is charged."""

    def extend(page: Page, operation: Extend) -> Hold | Replayed:
        failed = page.charges.get(operation.previous)
        if failed is not None and failed.open:
            ends.close(page, failed, EntryKind.SETTLE, Basis.COUNTED, Usage(failed.input_bound, 0), None)
        return admission.reserve(page, operation)

    patch.setattr(decide, "extend", extend)


def a_refused_job_loses_its_hold(patch: pytest.MonkeyPatch) -> None:
    """What a job holds is released before there is room for the terms of another model."""
    patch.setattr(dispatch, "fit", lambda *_: None)


def a_job_keeps_its_terms(patch: pytest.MonkeyPatch) -> None:
    """The terms of another model are not looked at."""

    def replace(page: Page, operation: Dispatch, *charges: Any) -> Hold:
        operation.terms = None
        return genuine(page, operation, *charges)

    genuine = dispatch._replace
    patch.setattr(dispatch, "_replace", replace)


DEFECTS: list[Detectable] = [
    Detectable(no_compare_and_set, scenarios.ends),
    Detectable(nothing_for_a_count, scenarios.ends),
    Detectable(forgiveness_without_end, scenarios.forgiveness),
    Detectable(a_sequence_that_stands_still, scenarios.ends),
    Detectable(a_balance_without_its_entry, scenarios.ends),
    Detectable(the_late_truth_is_dropped, scenarios.leases_and_late_truth),
    Detectable(leases_do_not_count, scenarios.leases_and_late_truth),
    Detectable(released_whatever_was_sent, scenarios.leases_and_late_truth),
    Detectable(a_release_that_books, scenarios.ends),
    Detectable(a_run_again_is_new, scenarios.ends),
    Detectable(memory_of_what_others_changed, scenarios.two_processes),
    Detectable(a_refused_extension_keeps_what_failed, scenarios.further_attempts),
    Detectable(a_failed_attempt_is_paid, scenarios.further_attempts),
    Detectable(a_refused_job_loses_its_hold, scenarios.jobs_of_another_model),
    Detectable(a_job_keeps_its_terms, scenarios.jobs_of_another_model),
]
