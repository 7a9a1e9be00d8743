"""POST /ai/query: one prompt, one answer."""

import time

from tollkeeper.api.ai.schemas import QueryAnswer, QueryRequest, QuotaShown, UsageShown
from tollkeeper.api.dependencies import Services
from tollkeeper.api.doors import Door, Reply, tightest
from tollkeeper.api.errors import iso
from tollkeeper.chat import Message, Usage
from tollkeeper.errors import UnsupportedParameter
from tollkeeper.gateway import Ask
from tollkeeper.principal import Principal
from tollkeeper.quota.operations import Balance


async def answer(services: Services, caller: Principal, request: QueryRequest) -> Reply:
    """Ask, and show what came of it."""
    started = time.perf_counter()
    result = await services.gateway.complete(caller, _ask(request))
    charge, completion = result.charge, result.completion
    shown = QueryAnswer(
        query_id=charge.charge_id,
        answer=completion.text,
        model=result.model,
        provider=result.provider,
        finish_reason=completion.finish_reason,
        usage=_usage(charge.usage),
        cost=charge.cost_tokens,
        cost_usd=usd(charge.cost_micro_usd),
        processing_time=round(time.perf_counter() - started, 3),
        quality_score=None,
        from_cache=False,
        session_id=None,
        quota=_quota(tightest(charge.balances)),
    )
    return Reply(shown, charge)


def _ask(request: QueryRequest) -> Ask:
    """Raises UnsupportedParameter for features that are not there."""
    for name in ("session_id", "evaluate", "retrieve"):
        if getattr(request, name):
            raise UnsupportedParameter(f"{name} is not supported.")
    prompt = Message("user", request.prompt)
    system = (Message("system", request.system_prompt),) if request.system_prompt is not None else ()
    return Ask(
        surface="query",
        messages=(*system, prompt),
        model=request.model,
        max_output=request.max_tokens,
        temperature=request.temperature,
        allocation=request.context_allocation,
    )


def _usage(usage: Usage) -> UsageShown:
    return UsageShown(usage.input_tokens, usage.output_tokens, usage.cached_input_tokens, usage.total_tokens)


def _quota(balance: Balance | None) -> QuotaShown | None:
    if balance is None:
        return None
    return QuotaShown(balance.limit, balance.used, balance.reserved, balance.remaining, iso(balance.resets_ms))


def usd(micro_usd: int | None) -> str | None:
    """Micro-USD as a decimal string in USD."""
    return None if micro_usd is None else f"{micro_usd // 1_000_000}.{micro_usd % 1_000_000:06d}"


QUERY = Door(
    path="/ai/query",
    takes=QueryRequest,
    gives=QueryAnswer,
    answer=answer,
    summary="Ask one prompt",
    description="Reserves on every quota that applies, asks the model once, and charges what it used.",
)
