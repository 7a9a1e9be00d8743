"""Retries and fallbacks: a failed attempt is followed by another only where nothing can have been billed."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from itertools import chain

from tollkeeper.errors import (
    ContextOverflow,
    Forbidden,
    InputError,
    ModelNotFound,
    ProviderAuthFailed,
    ProviderError,
    ProviderFailed,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
    QuotaRefusal,
    TenantKeyRefused,
    TollkeeperError,
)
from tollkeeper.gateway.call_record import CallRecord
from tollkeeper.gateway.candidate import Candidate
from tollkeeper.gateway.listener import Listener
from tollkeeper.gateway.results import Outcome
from tollkeeper.providers.base import MAX_CONTEXT
from tollkeeper.providers.credentials import CredentialVerdicts
from tollkeeper.quota.reservation import Reservation

MAX_RETRIES = 1
"""Further attempts at one model."""
RETRY_PAUSE_S = 0.2
"""The shortest pause before a retry; the longest is twice as long."""

TENANT_KEY_LIMITED = "The AI provider is limiting the requests of your tenant's own key."

FIELDS_OF_ALL_WIRES = frozenset({"model", "temperature", "top_p", "tools", "tool_choice"})
"""Fields with the same name in every wire format of callers."""

Attempt = Callable[[Reservation, Candidate], Awaitable[Outcome]]
"""One call of one provider, which reports to the reservation what it used. Raises ProviderError."""
MakeCandidate = Callable[[], Awaitable[Candidate]]
"""Prepares a call of one model. Raises InputError, ModelNotFound or TenantKeyRefused where that model cannot take the
call, Forbidden where the caller may not use it.
"""


async def call_with_fallbacks(
    reservation: Reservation,
    candidate: Candidate,
    attempt: Attempt,
    fallbacks: Iterator[MakeCandidate],
    other_deployments: Callable[[Candidate], Iterator[MakeCandidate]],
    listener: Listener | None = None,
) -> Outcome:
    """Call the model, once more where that is safe, and then its fallbacks.

    Where the model has other deployments, they are called instead of the same one again. Each deployment and each
    fallback is a charge of its own. What overflows the context window of one model is sent only to fallbacks that are
    known to have a larger one. Raises the ProviderError of the last attempt. No attempt follows once the
    `listener` has disconnected.
    """
    retries, deployments = MAX_RETRIES, other_deployments(candidate)
    while True:
        try:
            return await attempt(reservation, candidate)
        except ProviderError as error:
            if candidate.model.deployments is not None:
                candidate.model.deployments.record_failure(candidate.model, error)
            overflows = isinstance(error, ContextOverflow)
            if error.billed or (isinstance(error, ProviderRejected) and not overflows):
                raise
            other = next(deployments, None) if not overflows else None
            if other is None and retries and _is_worth_a_retry(error):
                retries -= 1
                await asyncio.sleep(RETRY_PAUSE_S * (1 + random.random()))
            else:
                following = fallbacks if other is None else chain((other,), deployments, fallbacks)
                if overflows:
                    following = _larger(following, candidate)
                reserved = await _reserve_next(reservation, following, error.code)
                if reserved is None:
                    raise
                if reserved.model.name != candidate.model.name:
                    deployments, retries = other_deployments(reserved), MAX_RETRIES
                else:
                    retries = 0
                candidate = reserved
            if listener is not None and listener.left:
                raise


def observed(attempt: Attempt, record: CallRecord, verdicts: CredentialVerdicts) -> Attempt:
    """The attempt, noted in the record of its call with the time that it takes and how it ends; and in the `verdicts`
    what it shows of the provider's credential.
    """

    async def run(reservation: Reservation, candidate: Candidate) -> Outcome:
        begun = record.begin_attempt(candidate, reservation.charge_id)
        try:
            outcome = await attempt(reservation, candidate)
        except BaseException as error:
            verdicts.note(candidate.model.provider.name, _tenant_of(record, candidate), error)
            if isinstance(error, ProviderRejected):
                _name_for_caller(error, candidate)
            if isinstance(error, ProviderRateLimited) and candidate.model.with_tenant_key:
                error.detail = TENANT_KEY_LIMITED
            refusal = _refusal_of_tenant_key(error, candidate)
            record.end_attempt(begun, refusal or error)
            if refusal is not None:
                raise refusal from error
            raise
        verdicts.note(candidate.model.provider.name, _tenant_of(record, candidate), None)
        record.end_attempt(begun)
        return outcome

    return run


def _tenant_of(record: CallRecord, candidate: Candidate) -> int | None:
    """The tenant whose own key the attempt was made with; None for the operator's credential."""
    return record.caller.tenant_id if candidate.model.with_tenant_key else None


def _refusal_of_tenant_key(error: BaseException, candidate: Candidate) -> TenantKeyRefused | None:
    """The error to raise instead, if the provider has refused the tenant's own key."""
    if not candidate.model.with_tenant_key or not isinstance(error, ProviderAuthFailed):
        return None
    refusal = TenantKeyRefused()
    refusal.upstream = error.upstream
    return refusal


def _name_for_caller(error: ProviderRejected, candidate: Candidate) -> None:
    """Name the field at fault as the caller does: where the request was translated, only some names are the same."""
    if error.parameter is not None and not candidate.prepared.raw:
        root = error.parameter.partition(".")[0].partition("[")[0]
        error.name_parameter(root if root in FIELDS_OF_ALL_WIRES else None)


def _larger(fallbacks: Iterator[MakeCandidate], candidate: Candidate) -> Iterator[MakeCandidate]:
    """The fallbacks whose context window is known to be larger than that of the candidate."""
    for make_candidate in fallbacks:

        async def make(make_candidate: MakeCandidate = make_candidate) -> Candidate:
            fallback = await make_candidate()
            if not candidate.model.context_window < fallback.model.context_window < MAX_CONTEXT:
                raise ModelNotFound
            return fallback

        yield make


def _is_worth_a_retry(error: ProviderError) -> bool:
    return isinstance(error, ProviderUnavailable | ProviderFailed) and error.retry_after_s is None


async def _reserve_next(
    reservation: Reservation, fallbacks: Iterator[MakeCandidate], error_code: str
) -> Candidate | None:
    """The next deployment or fallback that takes the call, with its hold reserved.

    None: there is none; or the next one cannot be reserved, for lack of quota or because the ledger is unavailable.
    """
    for make_candidate in fallbacks:
        try:
            candidate = await make_candidate()
        except (InputError, ModelNotFound, TenantKeyRefused, Forbidden):
            continue
        try:
            try:
                await reservation.extend(await candidate.byte_terms(), error_code)
            except QuotaRefusal:
                await reservation.extend(await candidate.exact_terms(), error_code)
        except TollkeeperError:
            return None
        return candidate
    return None
