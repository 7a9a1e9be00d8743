"""The arithmetic of roll-ups: buckets of 15 minutes, what distinguishes charges, and the sums of days."""

import json
from collections.abc import Mapping
from typing import NamedTuple

from tollkeeper.quota.time_sorted_ids import CHARGE_PREFIX
from tollkeeper.usage.models import Measured

DAY_MS = 86_400_000
MEASURES = tuple(Measured.model_fields)
NOTHING = (0,) * len(MEASURES)
CACHED_CALLS = MEASURES.index("cached_calls")

Sums = tuple[int, ...]
"""Amounts in the order of MEASURES."""


class Cell(NamedTuple):
    """What the charges of a row of a bucket have in common. The fields are columns of `UsageBucket`."""

    user_id: int
    key_id: str
    group_id: int
    provider: str
    model: str
    surface: str
    tags: str


class DayKey(NamedTuple):
    """The key of a row of `UsageDay`, without the tenant."""

    day_ms: int
    dimension: str
    value: str
    provider: str = ""
    group_id: int = 0


def first_id(at_ms: int) -> str:
    """Charges with this id or a later one were made at this time or later."""
    return f"{CHARGE_PREFIX}_{at_ms:012x}{'0' * 20}"


def add(left: Sums, right: Sums) -> Sums:
    return tuple([one + other for one, other in zip(left, right, strict=True)])


def subtract(left: Sums, right: Sums) -> Sums:
    return tuple([one - other for one, other in zip(left, right, strict=True)])


def tags_of(text: str) -> list[str]:
    """The tags of a row, each as `name=value`; one empty one if it has none."""
    tags: dict[str, str] = json.loads(text) if text else {}
    return [f"{name}={value}" for name, value in tags.items()] or [""]


def current_sums(counted: Sums | None, stored: Sums | None) -> Sums:
    """The sums of a cell whose charges add up to `counted`. Charges of cached calls are deleted some day: they were
    counted before, and never change.
    """
    sums, before = list(counted or NOTHING), stored or NOTHING
    sums[CACHED_CALLS] = max(sums[CACHED_CALLS], before[CACHED_CALLS])
    return tuple(sums)


def differences(counted: Mapping[Cell, Sums], stored: Mapping[Cell, Sums]) -> dict[Cell, tuple[Sums, Sums]]:
    """The cells of a bucket whose sums are no longer the stored ones: the new sums, and by how much they differ."""
    changed = {}
    for cell in counted.keys() | stored.keys():
        before = stored.get(cell, NOTHING)
        now = current_sums(counted.get(cell), before)
        if now != before:
            changed[cell] = now, subtract(now, before)
    return changed


def add_to_days(days: dict[DayKey, Sums], bucket_ms: int, cell: Cell, more: Sums) -> None:
    """Add a change of a cell to the rows of its day."""
    day_ms = bucket_ms - bucket_ms % DAY_MS
    keys = [
        DayKey(day_ms, "time", str(bucket_ms)),
        DayKey(day_ms, "model", cell.model, cell.provider, cell.group_id),
        DayKey(day_ms, "user", str(cell.user_id)),
        DayKey(day_ms, "key", cell.key_id),
        DayKey(day_ms, "surface", cell.surface),
        *(DayKey(day_ms, "tag", tag) for tag in tags_of(cell.tags)),
    ]
    for key in keys:
        days[key] = add(days.get(key, NOTHING), more)
