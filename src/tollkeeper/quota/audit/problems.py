"""What can be wrong in the ledger's rows."""

from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """The kind of a problem."""

    BALANCE = "balance"
    SEQUENCE = "sequence"
    OVER_ADMITTED = "over_admitted"
    NEGATIVE = "negative"
    ENTRY = "entry"
    CHARGE = "charge"
    COST = "cost"
    SKIPPED_QUOTA = "skipped_quota"
    WINDOW = "window"


@dataclass(frozen=True, slots=True)
class Problem:
    """One violation of an invariant: where it is, and what is wrong."""

    fault: Fault
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"
