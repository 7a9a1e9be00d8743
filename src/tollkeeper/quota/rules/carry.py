"""The carry of a window: what stands for its entries that are archived, so that its balances stay the sum of entries.

It is an entry of kind `carry`, whose amounts are the sums of the archived entries. Its sequence is the last archived
month as a negative number, so it comes before all others, the newest first: that of an archive that has not ended does
not count yet, and the newest that counts replaces the older ones.
"""

import hashlib
import json
from typing import NamedTuple, Self

from tollkeeper.quota.rules.models import EntryKind

BALANCES = ("granted", "settled", "pending", "forgiven")
_NO_DIGEST = ""


class Carry(NamedTuple):
    """The sums of a window's archived entries: how many they are, the sequence of the last, and a hash of all.

    Entries that are not archived may have sequences before `up_to`: those of a charge of the next month, say, which was
    reserved while one of this month was open.
    """

    up_to: int = 0
    entries: int = 0
    granted: int = 0
    settled: int = 0
    pending: int = 0
    forgiven: int = 0
    digest: str = _NO_DIGEST
    mode: int = 0
    """The sequence of the last `report` entry; negative if a `block` follows it, that of the block; 0 without any."""

    def add(self, sequence: int, kind: str, amounts: tuple[int, int, int, int], line: str) -> Self:
        """With one more entry, which `line` is the text of. Entries are added in the order of months and sequences."""
        return self._replace(
            up_to=max(self.up_to, sequence),
            entries=self.entries + 1,
            granted=self.granted + amounts[0],
            settled=self.settled + amounts[1],
            pending=self.pending + amounts[2],
            forgiven=self.forgiven + amounts[3],
            digest=hashlib.sha256((self.digest + line).encode()).hexdigest(),
            mode=later_mode(self.mode, sequence, kind),
        )

    @property
    def sums(self) -> tuple[int, int, int, int]:
        """The amounts of the entry."""
        return self.granted, self.settled, self.pending, self.forgiven

    @property
    def reason(self) -> str:
        """The `reason` of the entry."""
        facts = {"up_to": self.up_to, "entries": self.entries, "sha256": self.digest}
        return json.dumps(facts | {"mode": self.mode} if self.mode else facts)


def later_mode(mode: int, sequence: int, kind: str) -> int:
    """The mode of a window after another entry of it: the later one of both counts."""
    if kind not in (EntryKind.REPORT, EntryKind.BLOCK) or sequence < abs(mode):
        return mode
    return sequence if kind == EntryKind.REPORT else -sequence


def sequence_of(month: int) -> int:
    """The sequence of the carries that an archive up to this month writes."""
    return -month


def read_carry(sums: tuple[int, int, int, int], reason: str | None) -> Carry:
    """The carry of an entry. Raises ValueError if it is none."""
    try:
        found = json.loads(reason or "")
        mode = int(found.get("mode", 0))
        return Carry(int(found["up_to"]), int(found["entries"]), *sums, digest=str(found["sha256"]), mode=mode)
    except (TypeError, KeyError) as error:
        raise ValueError("it is no carry") from error
