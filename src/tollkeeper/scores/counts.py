"""The scores of answers, added up per tenant, day and model, and what the rated answers and their judges have cost."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from sqlalchemy import BigInteger, func
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.clock import Clock
from tollkeeper.database.day_counts import DayCounts
from tollkeeper.database.engine import Database
from tollkeeper.tenant_scope import TenantScope

TABLE = "score_counts"
SCORED = "scored"
"""The result of an answer that has a score. Any other result is the reason why there is none."""


class Origin(StrEnum):
    """Why an answer was rated: its caller has asked for it, or it is one of the tenant's share."""

    ASKED = "asked"
    SAMPLED = "sampled"


class ScoreCount(SQLModel, table=True):
    """The answers of a model on a day (UTC) that a judge was to rate, with one result: `scored`, or a reason why not.

    `cost_tokens` and `cost_micro_usd` are those of the answers, of which so many as `unpriced` have no price;
    `judge_tokens` and `judge_micro_usd` those of the judge's calls.
    """

    __tablename__ = TABLE

    tenant_id: int = Field(primary_key=True, foreign_key="tenants.id")
    day: str = Field(primary_key=True, max_length=10)
    model: str = Field(primary_key=True, max_length=200)
    judge: str = Field(primary_key=True, max_length=200)
    origin: str = Field(primary_key=True, max_length=10)
    result: str = Field(primary_key=True, max_length=20)
    answers: int = Field(sa_type=BigInteger)
    score_sum: int = Field(sa_type=BigInteger)
    cost_tokens: int = Field(sa_type=BigInteger)
    cost_micro_usd: int = Field(sa_type=BigInteger)
    unpriced: int = Field(sa_type=BigInteger)
    judge_tokens: int = Field(sa_type=BigInteger)
    judge_micro_usd: int = Field(sa_type=BigInteger)


class ScoreGrouping(StrEnum):
    """What scores can be grouped by."""

    MODEL = "model"
    JUDGE = "judge"
    DAY = "day"
    ORIGIN = "origin"


class Cost(NamedTuple):
    """The cost of a call, in tokens after the weight and in micro-USD; None for a model without a price."""

    tokens: int
    micro_usd: int | None


NO_COST = Cost(0, 0)


class Rated(NamedTuple):
    """What is counted by itself."""

    tenant_id: int
    model: str
    judge: str
    origin: str
    result: str


class ScoreCounts(DayCounts):
    """Counts the scores of answers. `results` are those of this process by origin and result; `points` their sums."""

    def __init__(self, database: Database, clock: Clock) -> None:
        sums = ("answers", "score_sum", "cost_tokens", "cost_micro_usd", "unpriced", "judge_tokens", "judge_micro_usd")
        super().__init__(database, clock, TABLE, Rated._fields, sums)
        self.results: Counter[tuple[str, str]] = Counter({(origin.value, SCORED): 0 for origin in Origin})
        self.points: Counter[str] = Counter({origin.value: 0 for origin in Origin})

    def note(self, rated: Rated, score: int, answer: Cost, judge: Cost) -> None:
        """Count one answer; `score` is 0 for one that has none."""
        self.results[rated.origin, rated.result] += 1
        self.points[rated.origin] += score
        is_unpriced = answer.micro_usd is None
        costs = (answer.tokens, answer.micro_usd or 0, int(is_unpriced), judge.tokens, judge.micro_usd or 0)
        self.add(rated, 1, score, *costs)


@dataclass(slots=True)
class ScoreGroup:
    """The answers of one group. Costs are those of the answers with a score; `cost_micro_usd` is None if one of their
    models has no price. The costs of the judges are those of all their calls.
    """

    group: str
    answers: int = 0
    scored: int = 0
    points: int = 0
    cost_tokens: int = 0
    cost_micro_usd: int | None = 0
    judge_tokens: int = 0
    judge_micro_usd: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    """How many have no score, by the reason."""

    @property
    def mean(self) -> float | None:
        return round(self.points / self.scored, 2) if self.scored else None

    @property
    def tokens_per_point(self) -> float | None:
        return round(self.cost_tokens / self.points, 4) if self.points else None

    @property
    def usd_per_point(self) -> str | None:
        if not self.points or self.cost_micro_usd is None:
            return None
        return f"{Decimal(self.cost_micro_usd) / 10**6 / self.points:.10f}"


async def list_scores(
    session: AsyncSession, scope: TenantScope, group_by: ScoreGrouping, first_day: str, last_day: str
) -> list[ScoreGroup]:
    """The groups of these days, the first and the last included, in the order of their names."""
    column = col(getattr(ScoreCount, group_by))
    sums = [
        func.sum(col(one))
        for one in (
            ScoreCount.answers,
            ScoreCount.score_sum,
            ScoreCount.cost_tokens,
            ScoreCount.cost_micro_usd,
            ScoreCount.unpriced,
            ScoreCount.judge_tokens,
            ScoreCount.judge_micro_usd,
        )
    ]
    is_wanted = (
        scope.condition(col(ScoreCount.tenant_id)),
        col(ScoreCount.day) >= first_day,
        col(ScoreCount.day) <= last_day,
    )
    query = select(column, col(ScoreCount.result), *sums).where(*is_wanted).group_by(column, col(ScoreCount.result))
    rows = (await session.exec(query.order_by(column, col(ScoreCount.result)))).all()
    by_group: Mapping[str, list[Sequence[int | str]]] = defaultdict(list)
    for group, *row in rows:
        by_group[group].append(row)
    return [_group_of(name, found) for name, found in by_group.items()]


def _group_of(name: str, rows: list[Sequence[int | str]]) -> ScoreGroup:
    made = ScoreGroup(name)
    for result, *sums in rows:
        answers, points, tokens, micro_usd, unpriced, judge_tokens, judge_micro_usd = map(int, sums)
        made.answers += answers
        made.judge_tokens += judge_tokens
        made.judge_micro_usd += judge_micro_usd
        if result == SCORED:
            made.scored, made.points, made.cost_tokens = answers, points, tokens
            made.cost_micro_usd = None if unpriced else micro_usd
        else:
            made.reasons[str(result)] = answers
    return made
