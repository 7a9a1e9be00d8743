"""THE PATH of every call to a model, whichever endpoint received it.

reserve (committed before the provider is called) → call → settle (on the one exit of the reservation) → result. The
endpoints have authenticated the caller and checked the rate limits before they start here.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from tollkeeper.gateway.allowed_models import require_model
from tollkeeper.gateway.attempts import Attempt, MakeCandidate, call_with_fallbacks, observed
from tollkeeper.gateway.call_events import CallRecord
from tollkeeper.gateway.candidate import Candidate, ModelCall
from tollkeeper.gateway.listener import Listener
from tollkeeper.gateway.reserved_call import ReservedCall
from tollkeeper.gateway.results import CallResult, Estimate, IdempotentCall
from tollkeeper.gateway.stored_responses import StoredResponses
from tollkeeper.gateway.streaming import Deadlines, relay_stream
from tollkeeper.gateway.whole import call_once
from tollkeeper.principal import Principal
from tollkeeper.providers.base import Model
from tollkeeper.providers.catalog import Catalog
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.operations import Replayed
from tollkeeper.worker_thread import run_by_size


class Gateway:
    """Calls models on behalf of authenticated callers, and charges each call.

    `default_output` is the output limit, in tokens, of a call that gives none.
    """

    def __init__(
        self,
        ledger: Ledger,
        catalog: Catalog,
        deadlines: Deadlines,
        responses: StoredResponses,
        *,
        default_output: int,
    ) -> None:
        self._ledger = ledger
        self._deadlines = deadlines
        self._responses = responses
        self._default_output = default_output
        self.catalog = catalog

    async def complete(
        self, record: CallRecord, call: ModelCall, idempotent: IdempotentCall | None = None
    ) -> CallResult | Replayed:
        """Make one call and return the whole answer with its charge; or the stored response of the same call.

        The call is that of the record's caller, and the record notes what becomes of it.

        Raises ModelNotFound, Forbidden, InputError, Unauthenticated, QuotaExceeded, QuotaHeld, LedgerUnavailable,
        IdempotencyInFlight, IdempotencyMismatch, PreviousAttemptInterrupted, CallFailed.
        """
        return await self._make(record, await self._candidate(record.caller, call, stream=False), call_once, idempotent)

    async def stream(
        self, record: CallRecord, call: ModelCall, listener: Listener, idempotent: IdempotentCall | None = None
    ) -> CallResult | Replayed:
        """Make one call and deliver its answer chunk by chunk; settle it before the `tail` of the outcome is sent.

        Raises as `complete` does; CallFailed also for an answer that breaks after its first chunk.
        """
        attempt = partial(relay_stream, listener=listener, deadlines=self._deadlines)
        candidate = await self._candidate(record.caller, call, stream=True)
        return await self._make(record, candidate, attempt, idempotent, listener)

    async def _make(
        self,
        record: CallRecord,
        candidate: Candidate,
        attempt: Attempt,
        idempotent: IdempotentCall | None,
        listener: Listener | None = None,
    ) -> CallResult | Replayed:
        record.choose(candidate)
        attempt = observed(attempt, record)
        async with ReservedCall(self._ledger, record, candidate, idempotent) as reservation:
            if reservation.replayed is not None:
                assert idempotent is not None
                return self._responses.open(record.caller, idempotent, reservation.replayed)
            fallbacks = self._fallbacks(record.caller, candidate, stream=listener is not None)
            others = partial(self._other_deployments, stream=listener is not None)
            outcome = await call_with_fallbacks(reservation, candidate, attempt, fallbacks, others, listener)
            record.answered(outcome)
            if idempotent is not None and not outcome.cut_short:
                result_of = partial(CallResult, outcome=outcome)
                reservation.store_response(self._responses.sealed(record.caller, idempotent, result_of))
        return CallResult(reservation.closed_charge, outcome)

    async def estimate(self, caller: Principal, call: ModelCall) -> Estimate:
        """What a call would hold, without making it. Raises ModelNotFound, Forbidden, InputError."""
        candidate = await self._candidate(caller, call, stream=False, own_keys=False)
        counted = await candidate.model.provider.count_input(candidate.prepared)
        return Estimate(candidate.model, await candidate.byte_terms(), await candidate.exact_terms(), counted)

    async def count_input(self, caller: Principal, call: ModelCall) -> int:
        """The input's tokens, by the best tokenizer at hand. No provider is called, and nothing is charged.

        Raises as `estimate` does.
        """
        candidate = await self._candidate(caller, call, stream=False, own_keys=False)
        return await candidate.model.provider.count_input(candidate.prepared)

    async def _candidate(self, caller: Principal, call: ModelCall, *, stream: bool, own_keys: bool = True) -> Candidate:
        """With `own_keys`, the call goes to providers with the tenant's own keys, where it has any."""
        require_model(self.catalog, caller, call.model)
        model = self.catalog.model(call.model, caller.tenant_id if own_keys else None)
        if model.deployments is not None:
            model = model.deployments.first()
        return await self._prepare(call, model, stream=stream)

    async def _prepare(self, call: ModelCall, model: Model, *, stream: bool) -> Candidate:
        prepared = await run_by_size(call.input.size, model.provider.prepare, model, call.input, stream=stream)
        return Candidate(call, model, prepared, self._default_output)

    def _other_deployments(self, candidate: Candidate, *, stream: bool) -> Iterator[MakeCandidate]:
        """Each other deployment of the candidate's model, chosen and prepared when it is its turn."""
        tried = {candidate.model.provider.name}
        deployments = candidate.model.deployments
        while deployments is not None and (model := deployments.another(tried)) is not None:
            tried.add(model.provider.name)
            yield partial(self._prepare, candidate.call, model, stream=stream)

    def _fallbacks(self, caller: Principal, candidate: Candidate, *, stream: bool) -> Iterator[MakeCandidate]:
        """Each of the model's fallbacks in turn, prepared when it is its turn."""
        for name in candidate.model.fallbacks:
            yield partial(self._candidate, caller, replace(candidate.call, model=name), stream=stream)
