"""Plans, as they are stored: named sets of rate limits, default quotas, allowed models and retention."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from sqlalchemy import text
from sqlmodel import col, func, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.configuration.models import Plan

MAX_QUOTAS = 20
MAX_LIMIT = 10**15
"""The largest limit of a quota: that of the ledger."""
_OF_TENANTS = text("SELECT t.id, p.name, p.document FROM tenants t JOIN plans p ON p.id = t.plan_id")

Rate = Annotated[str, Meta(min_length=1, max_length=100)]


class PlanQuota(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A quota: so much of a unit per window."""

    window: Literal["minute", "hour", "day", "week", "month", "total"]
    limit: Annotated[int, Meta(ge=0, le=MAX_LIMIT)]
    unit: Literal["tokens", "micro_usd", "requests", "concurrency"] = "tokens"


class PlanTerms(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """What a plan says. Rates are as `600/minute` or `10/second;1000/hour`, or `off`.

    `calls_per_user` and `requests_per_user` replace the limits of the installation on calls of models and on other
    requests; null leaves those. `calls_per_tenant` and `requests_per_tenant` limit all users of the tenant together.
    With `models`, only those can be called. `tenant_quotas` are set when a tenant is put on the plan. `user_quotas` are
    those of users who are created on it, unless the tenant has a default of its own. Stored contents are deleted after
    `content_days`.
    """

    calls_per_user: Rate | None = None
    calls_per_tenant: Rate | None = None
    requests_per_user: Rate | None = None
    requests_per_tenant: Rate | None = None
    models: Annotated[tuple[str, ...], Meta(min_length=1, max_length=50)] | None = None
    tenant_quotas: Annotated[tuple[PlanQuota, ...], Meta(max_length=MAX_QUOTAS)] = ()
    user_quotas: Annotated[tuple[PlanQuota, ...], Meta(max_length=MAX_QUOTAS)] = ()
    content_days: Annotated[int, Meta(ge=1, le=36_500)] | None = None


class TenantPlan(msgspec.Struct, frozen=True):
    """The plan that a tenant is on."""

    name: str
    terms: PlanTerms


async def list_tenant_plans(session: AsyncSession) -> dict[int, TenantPlan]:
    """The plan of each tenant that is on one."""
    rows = (await (await session.connection()).execute(_OF_TENANTS)).all()
    return {row.id: TenantPlan(row.name, read_terms(row.document)) for row in rows}


async def list_plans(session: AsyncSession, *, after: int, limit: int) -> list[Plan]:
    """At most so many plans with greater ids, by id."""
    return list(
        (await session.exec(select(Plan).where(col(Plan.id) > after).order_by(col(Plan.id)).limit(limit))).all()
    )


async def find_plan(session: AsyncSession, plan_id: int, *, to_change: bool = False) -> Plan | None:
    query = select(Plan).where(Plan.id == plan_id)
    return (await session.exec(query.with_for_update() if to_change else query)).first()


async def find_plan_by_name(session: AsyncSession, name: str) -> Plan | None:
    return (await session.exec(select(Plan).where(Plan.name == name))).first()


async def count_plans(session: AsyncSession) -> int:
    return (await session.exec(select(func.count()).select_from(Plan))).one()


def read_terms(document: str) -> PlanTerms:
    """The terms in a stored document."""
    return msgspec.json.decode(document, type=PlanTerms)


def write_terms(terms: PlanTerms) -> str:
    """The document that is stored for these terms."""
    return msgspec.json.encode(terms).decode()
