"""POST /ai/estimate: what a call would hold of the quotas, without making the call."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import msgspec
from msgspec import Meta

from tollkeeper.api.dependencies import Services
from tollkeeper.api.formats import usd
from tollkeeper.api.metered import MeteredEndpoint
from tollkeeper.api.native.exchange import quota_response
from tollkeeper.api.native.model_call import chat_messages, make_call
from tollkeeper.api.native.parsed_request import ParsedRequest, group_of
from tollkeeper.api.native.schemas import NativeChatRequest, QuotaResponse, exactly_one
from tollkeeper.api.strict_json import decode
from tollkeeper.errors import InvalidRequest
from tollkeeper.principal import Principal
from tollkeeper.quota import queries
from tollkeeper.quota.rules.balances import spendable
from tollkeeper.quota.rules.calls import LinkedTerms
from tollkeeper.quota.rules.linked import would_admit_both
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import Balance, Terms
from tollkeeper.quota.rules.page import Subject
from tollkeeper.quota.rules.room import hold_amount, would_admit
from tollkeeper.tenant_scope import TenantScope


class EstimateRequest(NativeChatRequest, kw_only=True, forbid_unknown_fields=True):
    """A request to /ai/query or to /ai/chat."""

    prompt: Annotated[str, Meta(min_length=1)] | None = None


class EstimateResponse(msgspec.Struct):
    """What a call would hold: `hold` at first, by the bytes of its input; `hold_exact` if that does not fit, by its
    tokens. Both are in tokens times the model's weight, and with `evaluate` they contain the judge's call. `fits` is
    whether the quotas would admit the call now. `quota` is the tightest one; for a user without a token quota, its
    limit is 0.
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
    quota: QuotaResponse | None


_encode = msgspec.json.Encoder().encode


def _parse(_caller: Principal, body: bytes) -> ParsedRequest[EstimateRequest]:
    request = decode(EstimateRequest, body)
    if request.prompt is not None:
        if request.messages is not None or request.message is not None:
            raise InvalidRequest("Send only one of prompt, messages and message.")
        request = msgspec.structs.replace(request, message=request.prompt)
    return ParsedRequest(request, chat_messages(request), len(body))


async def _estimate(services: Services, caller: Principal, parsed: ParsedRequest[EstimateRequest]) -> bytes:
    own, tenants = await _balances(services, replace(caller, conversation=parsed.request.session_id))
    call, _ = await make_call(services, caller, "estimate", parsed)
    estimate = await services.gateway.estimate(caller, call)
    by_bytes, exact = estimate.byte_terms, estimate.exact_terms
    with_judges = list(zip((by_bytes, exact), estimate.judges or (None, None), strict=True))
    return _encode(
        EstimateResponse(
            model=by_bytes.model,
            provider=by_bytes.provider,
            input_tokens=estimate.input_tokens,
            input_bound=by_bytes.input_bound,
            max_output=by_bytes.wanted_output,
            hold=_held(*with_judges[0], Unit.TOKENS) or 0,
            hold_exact=_held(*with_judges[1], Unit.TOKENS) or 0,
            hold_usd=usd(_held(*with_judges[0], Unit.MICRO_USD)),
            fits=any(_fits(terms, judge, own, tenants) for terms, judge in with_judges),
            quota=quota_response(spendable(own, tenants)),
        )
    )


def _held(terms: Terms, judge: LinkedTerms | None, unit: Unit) -> int | None:
    """What the call holds of a quota in `unit`, with all the output that it wants, and its judge's call."""
    held = hold_amount(terms, unit, terms.wanted_output)
    if held is None or judge is None:
        return held
    judges = hold_amount(judge.after(terms.wanted_output), unit, judge.terms.wanted_output)
    return None if judges is None else held + judges


def _fits(terms: Terms, judge: LinkedTerms | None, own: Sequence[Balance], tenants: Sequence[Balance]) -> bool:
    return would_admit(terms, own, tenants) if judge is None else would_admit_both(terms, judge, own, tenants)


async def _balances(services: Services, caller: Principal) -> tuple[list[Balance], list[Balance]]:
    """The balances of the caller's own quotas, and of the tenant's. Raises Unauthenticated."""
    now_ms = services.clock.now_ms()
    async with services.database.session(TenantScope(caller.tenant_id)) as session:
        await services.authenticator.load_account(session, caller)
        own = await queries.balances_of(session, [Subject(caller.tenant_id, caller.user_id)], now_ms)
        return own, await queries.balances_of(session, await queries.shared_subjects(session, caller), now_ms)


ESTIMATE = MeteredEndpoint(
    path="/ai/estimate",
    request_type=EstimateRequest,
    response_type=EstimateResponse,
    parse=_parse,
    group_of=group_of,
    prepare=_estimate,
    summary="Estimate a call",
    description="Accepts a request to /ai/query or /ai/chat; returns what its call would hold and whether it fits."
    " Nothing is reserved or charged, and no provider is called.",
    request_rules=exactly_one("prompt", "messages", "message"),
    examples={"One prompt": {"prompt": "Why is the sky blue?", "max_tokens": 200}},
    calls_model=False,
)
