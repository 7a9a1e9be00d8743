"""Up to where the ledger is archived. Rows of archived months do not count, even if they are not deleted yet."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from sqlalchemy import text

from tollkeeper.database.engine import Database
from tollkeeper.quota.audit.reading import read
from tollkeeper.quota.partition_months import end_of
from tollkeeper.quota.rules.carry import BALANCES

EXPORTING, REMOVING, DONE = "exporting", "removing", "done"
"""The states of an archive. While it exports, its rows still count."""
_TOTALS = ", ".join(f"whole_{name}" for name in ("windows", "entries", *BALANCES))
_ARCHIVES = text(f"SELECT month, state, ledger, {_TOTALS} FROM archives ORDER BY month")


class WholeWindows(NamedTuple):
    """Windows that ended and have no entries left: how many they are, and the sums of their entries' numbers and
    balances.
    """

    windows: int = 0
    entries: int = 0
    granted: int = 0
    settled: int = 0
    pending: int = 0
    forgiven: int = 0

    def plus(self, others: Sequence[int]) -> Self:
        """The sums of both."""
        return type(self)(*(one + other for one, other in zip(self, others, strict=True)))


@dataclass(frozen=True, slots=True)
class Cut:
    """`month` is the last archived month; 0 if there is none. `ledger` identifies the ledger, once it was archived.

    `state` changes with everything that an archive does to what counts.
    """

    month: int = 0
    ledger: str = ""
    whole: WholeWindows = field(default_factory=WholeWindows)
    state: tuple[tuple[int, str], ...] = ()

    @property
    def ends_ms(self) -> int | None:
        """When the last archived month ended."""
        return end_of(self.month) if self.month else None

    @property
    def values(self) -> dict[str, Any]:
        """What the statements need to leave out archived rows, and carries that do not count yet."""
        return {"cut": self.month, "first_sequence": -self.month}

    def covers(self, ends_ms: int | None) -> bool:
        """Whether a window that ended then may have no entries left."""
        return ends_ms is not None and self.ends_ms is not None and ends_ms <= self.ends_ms


async def read_cut(database: Database) -> Cut:
    """Raises DatabaseUnavailable."""
    cut = Cut()
    for month, state, ledger, *whole in map(tuple, await read(database, _ARCHIVES)):
        if state != EXPORTING:
            cut = Cut(month, cut.ledger or ledger, cut.whole.plus(whole), (*cut.state, (month, state)))
    return cut
