"""Composes the path of a call, and applies to it what administrators have configured."""

from dataclasses import dataclass
from functools import partial

from tollkeeper.clock import Clock
from tollkeeper.configuration.live import Configuration
from tollkeeper.configuration.plans import PlanTerms
from tollkeeper.configuration.provider_keys import read_key
from tollkeeper.configuration.switches import Switchable
from tollkeeper.contents.content_log import ContentLog
from tollkeeper.database.engine import Database
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.gateway.cached_vectors import AnswerCache
from tollkeeper.gateway.evaluation import Judge, Judges
from tollkeeper.gateway.path import Gateway
from tollkeeper.gateway.stored_responses import StoredResponses
from tollkeeper.gateway.streaming import Deadlines
from tollkeeper.gateway.verdict import RatedAnswer
from tollkeeper.identity.accounts import find_service_account
from tollkeeper.moderation.counts import Counted, ModerationCounts
from tollkeeper.moderation.policies import Policies
from tollkeeper.providers.catalog import Catalog
from tollkeeper.providers.tenant_providers import TenantKey
from tollkeeper.quota.ledger import Ledger
from tollkeeper.rate_limits.throttle import PlanRates, Throttle
from tollkeeper.response_cache.questions import CacheScope
from tollkeeper.scores.counts import NO_COST, SCORED, Cost, Origin, Rated, ScoreCounts
from tollkeeper.settings import Settings


@dataclass(frozen=True, slots=True)
class CallParts:
    """What calls share besides the ledger and the catalog."""

    contents: ContentLog
    cache: AnswerCache
    policies: Policies
    moderation_counts: ModerationCounts
    judges: Judges
    score_counts: ScoreCounts


def make_call_parts(settings: Settings, database: Database, data_keys: DataKeys, clock: Clock) -> CallParts:
    return CallParts(
        ContentLog(database, data_keys, clock),
        AnswerCache(max_bytes=settings.cache_bytes, seconds=settings.cache_seconds),
        Policies(),
        ModerationCounts(database, clock),
        Judges(),
        ScoreCounts(database, clock),
    )


def make_gateway(
    settings: Settings, database: Database, ledger: Ledger, catalog: Catalog, data_keys: DataKeys, parts: CallParts
) -> Gateway:
    deadlines = Deadlines(
        first_s=settings.timeout_seconds,
        idle_s=settings.stream_idle_seconds,
        total_s=settings.stream_total_seconds,
        ping_s=settings.stream_ping_seconds,
    )
    responses = StoredResponses(data_keys)
    return Gateway(
        ledger,
        catalog,
        deadlines,
        responses,
        parts.contents,
        parts.cache,
        parts.policies,
        partial(find_service_account, database),
        lambda tenant_id, event: parts.moderation_counts.note(
            Counted(tenant_id, event.rule, event.stage, event.action, event.enforced), event.findings
        ),
        parts.judges,
        partial(note_rated, parts.score_counts),
        default_output=settings.max_tokens,
    )


def note_rated(counts: ScoreCounts, rated: RatedAnswer) -> None:
    """Count a verdict."""
    charge, verdict = rated.charge, rated.verdict
    judge = verdict.charge
    counts.note(
        Rated(
            rated.tenant_id,
            rated.model,
            verdict.model,
            Origin.SAMPLED if rated.is_sampled else Origin.ASKED,
            verdict.reason or SCORED,
        ),
        verdict.score or 0,
        Cost(charge.cost_tokens, charge.cost_micro_usd),
        Cost(judge.cost_tokens, judge.cost_micro_usd) if judge is not None else NO_COST,
    )


def plan_rates(terms: PlanTerms) -> PlanRates:
    """The rates of a plan."""
    return PlanRates(terms.calls_per_user, terms.calls_per_tenant, terms.requests_per_user, terms.requests_per_tenant)


async def configure_calls(
    catalog: Catalog, data_keys: DataKeys, parts: CallParts, throttle: Throttle, configuration: Configuration
) -> None:
    """Apply what administrators have configured. A tenant's key is decrypted when it is first used."""
    parts.contents.configure(configuration.logging_tenants)
    parts.policies.configure(configuration.moderation_policies)
    parts.judges.configure({tenant_id: Judge(*judge) for tenant_id, judge in configuration.judges.items()})
    parts.cache.configure({tenant_id: CacheScope(scope) for tenant_id, scope in configuration.cache_scopes.items()})
    catalog.limit_to_plans(
        {
            tenant_id: plan.terms.models
            for tenant_id, plan in configuration.plans.items()
            if plan.terms.models is not None
        }
    )
    throttle.configure({tenant_id: plan_rates(plan.terms) for tenant_id, plan in configuration.plans.items()})
    off = {kind: {one.name for one in configuration.switched_off if one.kind == kind.value} for kind in Switchable}
    keys = [
        TenantKey(row.tenant_id, row.provider, row.id, partial(read_key, data_keys, row))
        for row in configuration.provider_keys
    ]
    await catalog.configure(off[Switchable.MODEL], off[Switchable.PROVIDER], keys)
