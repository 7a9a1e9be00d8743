"""Charges in which the short checks see nothing wrong have nothing wrong by the full checks either."""

import random
from typing import Any

import pytest

from tollkeeper.quota.audit import invariants
from tollkeeper.quota.audit.applied_quotas import QuotasByOwner, skipped_quotas
from tollkeeper.quota.audit.facts import ChargeFacts, EntryFacts, QuotaFacts, WindowFacts
from tollkeeper.quota.audit.invariants import charge_problems
from tollkeeper.quota.rules.models import Basis, ChargeState, EntryKind, Unit
from tollkeeper.quota.rules.subjects import SubjectKind
from tollkeeper.quota.time_sorted_ids import month_of, new_id

CREATED_MS = 1_000_000
ID = new_id("chg")
MONTH = month_of(ID)
CHARGE = ChargeFacts._make(
    (
        *(1, MONTH, ID, 2, ChargeState.SETTLED, Basis.PROVIDER, EntryKind.SETTLE, CREATED_MS, False, False, False),
        *(9, None, 5, None, 0, None, 1_000, None, None, None, None, 2, None, None, 3, 0, 0, CREATED_MS, None),
        *("query", "key_1", 3, None, '{"team":"a"}'),
    )
)
OWNERS = (
    *((SubjectKind.TENANT, "", ""), (SubjectKind.USER, "", ""), (SubjectKind.EACH_USER, "", "2")),
    *((SubjectKind.KEY, "key_1", ""), (SubjectKind.GROUP, "3", ""), (SubjectKind.EACH_TAG, "team", "team=a")),
)
AMOUNTS = {Unit.TOKENS: (9, 5), Unit.REQUESTS: (1, 1), Unit.CONCURRENCY: (1, 0)}
NUMBERS = (-1, 0, 1, 2, 3, 4, 9, 202_001, CREATED_MS, CREATED_MS + 10**6)
OTHERS: dict[str, tuple[object, ...]] = {
    "id": (new_id("chg"), "chg_1"),
    "state": tuple(ChargeState),
    "basis": (*Basis, None),
    "closed_by": (*EntryKind, None),
    "closed_ms": (CREATED_MS, None),
    "error": ("recovered", "timeout", None),
    "surface": ("query", "vectors", "job"),
    "key_id": ("key_1", "key_2", None),
    "tags": ('{"team":"b"}', '{"team":"a","other":"a"}', None),
    "conversation": ("one", None),
    "unit": tuple(Unit),
    "period": ("minute", "day", "month"),
    "subject": ("", "key_1", "3", "team", "team=a"),
    "value": ("", "2", "key_1", "team=a"),
}
CASES = 5_000
MOST_CHANGES = 2


class _Case:
    """A charge with its entries, windows and quotas: right, except for some changes."""

    def __init__(self, chance: random.Random) -> None:
        self.charge = CHARGE._asdict()
        self.entries = list[dict[str, Any]]()
        self.windows = list[dict[str, Any]]()
        self.quotas = list[dict[str, Any]]()
        for number, (kind, subject, value) in enumerate(chance.sample(OWNERS, chance.randint(1, 3)), 1):
            unit = chance.choice(list(AMOUNTS))
            of_user = 2 if kind in (SubjectKind.USER, SubjectKind.KEY) else None
            owner = {"tenant_id": 1, "user_id": of_user, "kind": kind, "subject": subject, "unit": unit}
            self.quotas.append({**owner, "id": number, "period": "day", "since_ms": 1, "removed_ms": None})
            self.windows.append({**owner, "quota_id": number, "starts_ms": 1, "ends_ms": 10**9, "value": value})
            self._hold(number, *AMOUNTS[unit])
        self.entries.sort(key=lambda entry: (entry["kind"], entry["window_id"]))
        self.changes = [self._change(chance) for _ in range(chance.randint(0, MOST_CHANGES))]

    def _hold(self, window: int, held: int, cost: int) -> None:
        owner = {"tenant_id": 1, "month": MONTH, "source_id": ID, "window_id": window, "forgiven": 0}
        self.entries.append({**owner, "sequence": 2, "kind": EntryKind.RESERVE, "settled": 0, "pending": held})
        self.entries.append({**owner, "sequence": 3, "kind": EntryKind.SETTLE, "settled": cost, "pending": -held})

    def _change(self, chance: random.Random) -> str:
        rows = [self.charge, *self.entries, *self.windows, *self.quotas]
        if chance.random() < 0.2 and self.entries:
            place = chance.randrange(len(self.entries))
            if chance.random() < 0.5:
                return f"without {self.entries.pop(place)}"
            self.entries.insert(place, dict(self.entries[place]))
            return f"twice {self.entries[place]}"
        if chance.random() < 0.1:
            self.charge["closed_by"] = kind = chance.choice(list(EntryKind))
            for entry in self.entries:
                entry["kind"] = kind if entry["kind"] == EntryKind.SETTLE else entry["kind"]
            return f"ended by {kind}"
        row = chance.choice(rows)
        name = chance.choice([name for name in row if name != "source_id"])
        value = row[name]
        if name == "kind":
            row[name] = chance.choice(list(EntryKind if "source_id" in row else SubjectKind))
        else:
            row[name] = chance.choice(OTHERS.get(name, NUMBERS))
        return f"{name}: {value} to {row[name]}"

    def found(self) -> tuple[list[Any], list[Any]]:
        """The problems of the charge, and the quotas that it skipped."""
        charge = ChargeFacts(**self.charge)
        entries = [tuple(EntryFacts(**entry)) for entry in self.entries]
        windows = {(1, number): WindowFacts(**window) for number, window in enumerate(self.windows, 1)}
        quotas = QuotasByOwner()
        quotas.add(NUMBERS, NUMBERS, [])
        quotas._of_user = dict.fromkeys(quotas._of_user, quotas._of_user[2])
        quotas._of_tenant = dict.fromkeys(quotas._of_tenant, quotas._of_tenant[1])
        quotas.add([], [], [QuotaFacts(**{**quota, "user_id": quota["user_id"] and 2}) for quota in self.quotas])
        return list(charge_problems(charge, entries, windows)), skipped_quotas(charge, entries, windows, quotas)


@pytest.mark.parametrize("seed", range(4))
def test_what_the_short_checks_let_pass_is_right_by_the_full_ones(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    cases = [_Case(chance) for _ in range(CASES)]
    by_short_checks = [case.found() for case in cases]
    with monkeypatch.context() as patched:
        patched.setattr(invariants, "_has_plain_holds", lambda *_: False)
        patched.setattr(QuotasByOwner, "are_held", lambda *_: False)
        for case, short in zip(cases, by_short_checks, strict=True):
            assert case.found() == short, case.changes
    unchanged = [found for case, found in zip(cases, by_short_checks, strict=True) if not case.changes]
    assert unchanged
    assert all(found == ([], []) for found in unchanged)
    assert 0.1 < sum(bool(problems) for problems, _ in by_short_checks) / len(cases) < 0.9
    assert any(skipped for _, skipped in by_short_checks)
