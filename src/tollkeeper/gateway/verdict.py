"""What a judge says of an answer."""

from typing import NamedTuple

from tollkeeper.quota.rules.operations import ClosedCharge


class Verdict(NamedTuple):
    """The score of an answer, from 0 to 100; or None, with the reason why there is none. `model` is the judge's;
    `charge` and `provider` are those of its call, if one was made.
    """

    score: int | None
    reason: str | None
    model: str
    charge: ClosedCharge | None = None
    provider: str | None = None


class RatedAnswer(NamedTuple):
    """The verdict on the answer of a `model` to a call of a tenant, and how that call was charged. `is_sampled`: it is
    rated because it is one of the tenant's share.
    """

    tenant_id: int
    model: str
    charge: ClosedCharge
    verdict: Verdict
    is_sampled: bool
