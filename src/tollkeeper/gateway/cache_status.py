"""What the response cache has done for a call."""

from typing import NamedTuple

from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.operations import ClosedCharge


class CacheStatus(NamedTuple):
    """Whether a call was answered from the cache: then by which charge, and by an answer of which age and basis."""

    charge: ClosedCharge | None = None
    age_s: int = 0
    basis: Basis = Basis.NONE

    @property
    def is_hit(self) -> bool:
        return self.charge is not None


MISS = CacheStatus()
