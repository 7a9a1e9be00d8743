"""What a judge says of an answer."""

import re
from typing import NamedTuple

import orjson

from tollkeeper.quota.rules.operations import ClosedCharge

MAX_SCORE = 100
_FENCE = re.compile(r"\A```(?:json)?\s*(.*?)\s*```\Z", re.DOTALL)


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


def read_score(answer: str) -> tuple[int | None, str | None]:
    """The score in a judge's answer, or the reason why there is none."""
    score = _score_of(answer)
    return score, None if score is not None else "no_score"


def _score_of(answer: str) -> int | None:
    """The score in a judge's answer, which is one JSON object, perhaps in a Markdown fence; None for anything else."""
    fenced = _FENCE.match(answer.strip())
    try:
        verdict = orjson.loads(fenced[1] if fenced is not None else answer.strip())
    except orjson.JSONDecodeError:
        return None
    score = verdict.get("score") if isinstance(verdict, dict) else None
    is_score = isinstance(score, int) and not isinstance(score, bool) and 0 <= score <= MAX_SCORE
    return score if is_score else None
