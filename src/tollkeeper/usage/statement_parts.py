"""What a statement is made of, and how it is written as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Self

from tollkeeper.usage.buckets import NOTHING, Sums, add, subtract


class ModelKey(NamedTuple):
    """A line of a statement: a group (0 for calls without one), a model and its provider."""

    group_id: int
    model: str
    provider: str


class TagKey(NamedTuple):
    """A line of a statement: a tag with a value; None for all values of it that have no line of their own."""

    name: str
    value: str | None


ModelSums = dict[ModelKey, Sums]
TagSums = dict[TagKey, Sums]


@dataclass(frozen=True, slots=True)
class QuotaBalance:
    """One quota of the tenant in the month. `opening` and `closing` are what was left of it; `spent` is net of refunds,
    and `corrections` is what calls of closed months cost more, or less, than their statements say.

    opening + granted − spent − corrections = closing.
    """

    quota: str
    unit: str
    opening: int
    granted: int
    spent: int
    corrections: int
    closing: int


@dataclass(frozen=True, slots=True)
class Statement:
    """The statement of a tenant's month. `closed_ms` is None until it is closed.

    `tags` is what `spent` is by tag. `corrections` are what later adjustments and refunds have changed of months that
    were closed before, by month.
    """

    tenant_id: int
    month: int
    starts_ms: int
    ends_ms: int
    time_zone: str
    closed_ms: int | None
    balances: list[QuotaBalance] = field(default_factory=list)
    spent: ModelSums = field(default_factory=dict)
    corrections: dict[int, ModelSums] = field(default_factory=dict)
    tags: TagSums = field(default_factory=dict)

    @property
    def total(self) -> Sums:
        """The sums of all lines of `spent`."""
        return total_of(self.spent.values())

    def as_document(self) -> dict[str, Any]:
        """As it is stored: what `from_document` reads."""
        return {
            "tenant_id": self.tenant_id,
            "month": self.month,
            "starts_ms": self.starts_ms,
            "ends_ms": self.ends_ms,
            "time_zone": self.time_zone,
            "closed_ms": self.closed_ms,
            "balances": [asdict(balance) for balance in self.balances],
            "spent": _written(self.spent),
            "corrections": {str(month): _written(lines) for month, lines in self.corrections.items()},
            "tags": [[*key, *sums] for key, sums in self.tags.items()],
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The statement that was stored. Those of before there were tags have none."""
        return cls(
            **{name: document[name] for name in ("tenant_id", "month", "starts_ms", "ends_ms", "time_zone")},
            closed_ms=document["closed_ms"],
            balances=[QuotaBalance(**balance) for balance in document["balances"]],
            spent=_read(document["spent"]),
            corrections={int(month): _read(lines) for month, lines in document["corrections"].items()},
            tags={TagKey(name, value): tuple(sums) for name, value, *sums in document.get("tags", [])},
        )


def total_of(sums: Any) -> Sums:
    """The sum of some sums."""
    total = NOTHING
    for one in sums:
        total = add(total, one)
    return total


def plus(left: ModelSums, right: Mapping[ModelKey, Sums]) -> ModelSums:
    """The sums of both, line by line."""
    return left | {key: add(left.get(key, NOTHING), sums) for key, sums in right.items()}


def minus(left: ModelSums, right: Mapping[ModelKey, Sums]) -> ModelSums:
    """The lines in which both differ, and by how much."""
    keys = sorted(left.keys() | right.keys())
    differences = {key: subtract(left.get(key, NOTHING), right.get(key, NOTHING)) for key in keys}
    return {key: sums for key, sums in differences.items() if any(sums)}


def _written(lines: ModelSums) -> list[list[Any]]:
    return [[*key, *sums] for key, sums in sorted(lines.items())]


def _read(lines: list[list[Any]]) -> ModelSums:
    width = len(ModelKey._fields)
    return {ModelKey(*line[:width]): tuple(line[width:]) for line in lines}
