"""The tenants' judges, which rate answers, as they are stored."""

from typing import NamedTuple

from sqlalchemy import text
from sqlmodel.ext.asyncio.session import AsyncSession

_QUERY = text(
    "SELECT id, judge_model, judge_rubric, evaluate_share, evaluate_account FROM tenants WHERE judge_model IS NOT NULL"
)


class StoredJudge(NamedTuple):
    """The model and the rubric of a judge; the share of answers that it rates anyway, and who pays for those."""

    model: str
    rubric: str | None
    share: float
    account: int | None


async def list_judges(session: AsyncSession) -> dict[int, StoredJudge]:
    """The judge of each tenant that has one."""
    rows = (await (await session.connection()).execute(_QUERY)).all()
    return {row[0]: StoredJudge(*row[1:]) for row in rows}
