"""POST /ai/estimate: what a call would hold, without making it."""

from typing import Annotated

import msgspec
from msgspec import Meta

from tollkeeper.api.dependencies import Services
from tollkeeper.api.formats import usd
from tollkeeper.api.metered import MeteredEndpoint, decode
from tollkeeper.api.native.exchange import show_quota
from tollkeeper.api.native.model_call import ask, chat_turns
from tollkeeper.api.native.schemas import ChatAsked, QuotaShown
from tollkeeper.clock import SystemClock
from tollkeeper.errors import InvalidRequest
from tollkeeper.principal import Principal
from tollkeeper.quota import queries
from tollkeeper.quota.rules.admission import hold_of, would_admit
from tollkeeper.quota.rules.balances import spendable
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import Balance
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
    by_bytes, exact = estimate.byte_terms, estimate.exact_terms
    return _encode(
        Estimated(
            model=by_bytes.model,
            provider=by_bytes.provider,
            input_tokens=estimate.input_tokens,
            input_bound=by_bytes.input_bound,
            max_output=by_bytes.wanted_output,
            hold=hold_of(by_bytes, Unit.TOKENS, by_bytes.wanted_output) or 0,
            hold_exact=hold_of(exact, Unit.TOKENS, exact.wanted_output) or 0,
            hold_usd=usd(hold_of(by_bytes, Unit.MICRO_USD, by_bytes.wanted_output)),
            fits=any(would_admit(terms, own, tenants) for terms in (by_bytes, exact)),
            quota=show_quota(spendable(own, tenants)),
        )
    )


async def _balances(services: Services, caller: Principal) -> tuple[list[Balance], list[Balance]]:
    """The quotas of the caller, and those of the tenant. Raises Unauthenticated."""
    now_ms = SystemClock().now_ms()
    async with services.database.session() as session:
        await services.credentials.current(session, caller)
        own = await queries.balances_of(session, [Subject(caller.tenant_id, caller.user_id)], now_ms)
        return own, await queries.balances_of(session, [Subject(caller.tenant_id)], now_ms)


ESTIMATE = MeteredEndpoint(
    path="/ai/estimate",
    takes=EstimateAsked,
    gives=Estimated,
    opens=_estimate,
    summary="What would it hold",
    description="Takes what /ai/query or /ai/chat take, and says what the call would hold and whether it fits now."
    " Nothing is reserved, nobody is asked, and nothing is charged.",
)
