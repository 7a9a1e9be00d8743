"""POST /ai/estimate: what a call would hold, without making it."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from tollkeeper.api.balances import has_token_quota, in_front
from tollkeeper.api.dependencies import Services
from tollkeeper.api.metered import MeteredEndpoint, decode
from tollkeeper.api.native.exchange import show_quota, usd
from tollkeeper.api.native.model_call import ask, chat_turns
from tollkeeper.api.native.schemas import ChatAsked, QuotaShown
from tollkeeper.clock import SystemClock
from tollkeeper.errors import InvalidRequest
from tollkeeper.principal import Principal
from tollkeeper.quota import queries
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import Balance, Terms
from tollkeeper.quota.rules.page import Subject


class EstimateAsked(ChatAsked, kw_only=True, forbid_unknown_fields=True):
    """What would be sent to /ai/query or to /ai/chat."""

    prompt: Annotated[str, Meta(min_length=1)] | None = None


class Estimated(msgspec.Struct):
    """What a call would hold: `hold` at first, by the bytes of its input; `hold_exact` if that does not fit, by its
    tokens. Both in tokens after the model's weight. `fits` says whether a quota would refuse it now, `quota` is the
    tightest one; without a token quota of one's own, its limit is 0.
    """

    model: str
    provider: str
    input_tokens: int
    input_bound: int
    max_output: int
    hold: int
    hold_exact: int
    hold_usd: str | None
    fits: bool
    quota: QuotaShown | None


_decoder = msgspec.json.Decoder(EstimateAsked)
_encode = msgspec.json.Encoder().encode


async def _estimate(services: Services, caller: Principal, body: bytes) -> bytes:
    request = decode(_decoder, body)
    if request.prompt is not None:
        if request.messages is not None or request.message is not None:
            raise InvalidRequest("Either prompt, messages or message is needed.")
        request = msgspec.structs.replace(request, message=request.prompt)
    own, tenants = await _balances(services, caller)
    asked, _ = await ask(services, caller, "estimate", request, chat_turns(request))
    estimate = await services.gateway.estimate(asked)
    first, tighter = estimate.first, estimate.tighter
    return _encode(
        Estimated(
            model=first.model,
            provider=first.provider,
            input_tokens=estimate.input_tokens,
            input_bound=first.input_bound,
            max_output=first.wanted_output,
            hold=_hold(first, Unit.TOKENS) or 0,
            hold_exact=_hold(tighter, Unit.TOKENS) or 0,
            hold_usd=usd(_hold(first, Unit.MICRO_USD)),
            fits=has_token_quota(own) and any(_fits(terms, [*own, *tenants]) for terms in (first, tighter)),
            quota=show_quota(in_front(own, tenants)),
        )
    )


async def _balances(services: Services, caller: Principal) -> tuple[list[Balance], list[Balance]]:
    """The quotas of the caller, and those of the tenant. Raises Unauthenticated."""
    now_ms = SystemClock().now_ms()
    async with services.database.session() as session:
        await services.credentials.current(session, caller)
        own = await queries.balances_of(session, [Subject(caller.tenant_id, caller.user_id)], now_ms)
        return own, await queries.balances_of(session, [Subject(caller.tenant_id)], now_ms)


def _fits(terms: Terms, balances: Sequence[Balance]) -> bool:
    """Whether these terms would be admitted now, on every quota. Decides as `quota.reserving` does."""
    if terms.meter.price is None and any(balance.unit is Unit.MICRO_USD for balance in balances):
        return False
    rooms = [
        terms.meter.most_output(balance.unit, terms.input_bound, balance.limit - balance.used) for balance in balances
    ]
    granted = min([terms.wanted_output, *rooms])
    if granted < terms.least_output:
        return False
    return all((_hold(terms, balance.unit, granted) or 0) <= balance.remaining for balance in balances)


def _hold(terms: Terms, unit: Unit, output: int | None = None) -> int | None:
    """What a call with so much output (all that is wanted, unless said) would hold; None without a price."""
    wanted = terms.wanted_output if output is None else output
    return terms.meter.cost(unit, terms.meter.dearest(terms.input_bound, wanted))


ESTIMATE = MeteredEndpoint(
    path="/ai/estimate",
    takes=EstimateAsked,
    gives=Estimated,
    opens=_estimate,
    summary="What would it hold",
    description="Takes what /ai/query or /ai/chat take, and says what the call would hold and whether it fits now."
    " Nothing is reserved, nobody is asked, and nothing is charged.",
)
