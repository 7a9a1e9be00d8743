"""The scores that the judge of a tenant has given to its answers."""

from datetime import date
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from tollkeeper.administration import scores
from tollkeeper.api.admin.caller import TenantAdmin
from tollkeeper.api.admin.pages import MAX_ID, NO_TENANT
from tollkeeper.api.formats import usd
from tollkeeper.scores.counts import ScoreGroup, ScoreGrouping

router = APIRouter(prefix="/admin/scores", tags=["admin"])

TenantId = Annotated[int | None, Query(ge=1, le=MAX_ID, examples=[1], description="By default the caller's own.")]
FirstDay = Annotated[date | None, Query(alias="from", examples=["2026-01-01"])]
LastDay = Annotated[date | None, Query(alias="to", examples=["2026-01-31"])]


class ScoreResponse(BaseModel):
    """The `answers` of one model, judge, day (UTC) or origin that were to be rated, of which so many are `scored`.

    `mean_score` is from 0 to 100. `cost` is that of the scored answers, in tokens after the weight, `cost_per_point`
    that cost over the sum of the scores; in USD, both are null if a model has no price. `judge_cost` is that of all
    calls of judges. `not_scored` has the reasons why there is no score.
    """

    group: str
    answers: int
    scored: int
    mean_score: float | None
    cost: int
    cost_usd: str | None
    cost_per_point: float | None
    cost_usd_per_point: str | None
    judge_cost: int
    judge_cost_usd: str | None
    not_scored: dict[str, int]


class ScoreListResponse(BaseModel):
    """The groups, in the order of their names."""

    data: list[ScoreResponse] = Field(examples=[[]])


@router.get("", responses=NO_TENANT, summary="The scores of the tenant's answers")
async def list_scores(
    caller: TenantAdmin,
    group_by: Annotated[ScoreGrouping, Query(examples=["model"])] = ScoreGrouping.MODEL,
    first: FirstDay = None,
    last: LastDay = None,
    tenant_id: TenantId = None,
) -> ScoreListResponse:
    """Counted a few seconds after a call. By default, those of the last 30 days by model. An `origin` is `asked` for a
    call with `evaluate`, and `sampled` for the share of the tenant.
    """
    found = await scores.scores(caller.admin, tenant_id, group_by, first, last)
    return ScoreListResponse(data=[_score_response(one) for one in found])


def _score_response(one: ScoreGroup) -> ScoreResponse:
    return ScoreResponse(
        group=one.group,
        answers=one.answers,
        scored=one.scored,
        mean_score=one.mean,
        cost=one.cost_tokens,
        cost_usd=usd(one.cost_micro_usd),
        cost_per_point=one.tokens_per_point,
        cost_usd_per_point=one.usd_per_point,
        judge_cost=one.judge_tokens,
        judge_cost_usd=usd(one.judge_micro_usd),
        not_scored=one.reasons,
    )
