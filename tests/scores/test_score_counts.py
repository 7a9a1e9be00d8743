"""Scores are added up per tenant, day, model, judge and origin, and read in groups."""

import pytest

from support.factories import FakeClock, make_tenant
from tollkeeper.database.engine import Database
from tollkeeper.scores.counts import (
    NO_COST,
    SCORED,
    Cost,
    Origin,
    Rated,
    ScoreCounts,
    ScoreGroup,
    ScoreGrouping,
    list_scores,
)
from tollkeeper.tenant_scope import TenantScope

ALL_DAYS = ("2000-01-01", "2100-01-01")


async def groups(database: Database, tenant_id: int, group_by: ScoreGrouping) -> list[ScoreGroup]:
    async with database.session() as session:
        return await list_scores(session, TenantScope(tenant_id), group_by, *ALL_DAYS)


async def test_scores_are_grouped_with_their_mean_and_the_cost_of_a_point(database: Database) -> None:
    one, other = [await make_tenant(database) for _ in range(2)]
    counts, process = ScoreCounts(database, FakeClock()), ScoreCounts(database, FakeClock())
    good = Rated(one, "good", "judge", Origin.ASKED, SCORED)
    counts.note(good, 90, Cost(30, 900), Cost(10, 7))
    counts.note(good, 60, Cost(20, 600), Cost(10, 7))
    process.note(good._replace(origin=Origin.SAMPLED), 30, Cost(40, 300), Cost(1, 1))
    process.note(good._replace(result="no_score"), 0, Cost(99, 99), Cost(5, 5))
    process.note(good._replace(model="free"), 0, Cost(8, None), NO_COST)
    process.note(good._replace(tenant_id=other), 100, Cost(1, 1), NO_COST)
    for writing in (counts, process):
        await writing.store()
    free, of_good = await groups(database, one, ScoreGrouping.MODEL)
    assert (of_good.group, of_good.answers, of_good.scored, of_good.points) == ("good", 4, 3, 180)
    assert (of_good.cost_tokens, of_good.cost_micro_usd, of_good.judge_tokens, of_good.judge_micro_usd) == (
        90,
        1_800,
        26,
        20,
    )
    assert (of_good.mean, of_good.tokens_per_point, of_good.usd_per_point) == (60.0, 0.5, "0.0000100000")
    assert of_good.reasons == {"no_score": 1}
    assert (free.mean, free.cost_micro_usd, free.tokens_per_point, free.usd_per_point) == (0.0, None, None, None)
    assert [found.group for found in await groups(database, one, ScoreGrouping.ORIGIN)] == ["asked", "sampled"]
    assert [found.answers for found in await groups(database, one, ScoreGrouping.JUDGE)] == [5]
    assert len(await groups(database, one, ScoreGrouping.DAY)) == 1
    assert [found.mean for found in await groups(database, other, ScoreGrouping.MODEL)] == [100.0]
    assert +counts.results == {("asked", SCORED): 2}
    assert +counts.points == {"asked": 150}


def test_a_group_without_scores_has_no_mean() -> None:
    empty = ScoreGroup("m", answers=2, reasons={"busy": 2})
    assert (empty.mean, empty.tokens_per_point, empty.usd_per_point) == (None, None, None)
    assert ScoreGroup("m", scored=3, points=100).mean == pytest.approx(33.33)
