"""THE PATH of every call to a model, whichever endpoint received it.

moderate input → cache → reserve (committed before the provider is called) → call → moderate output → rate → settle (on
the one exit of the reservation) → result. A stored response is replayed by the reserve, before a rule refuses an input.
The endpoints have authenticated the caller and checked the rate limits before they start here.
"""

from collections.abc import Awaitable
from functools import partial
from typing import TypeVar

from tollkeeper.contents.content_log import ContentLog
from tollkeeper.gateway.allowed_models import require_model
from tollkeeper.gateway.attempts import Attempt, call_with_fallbacks, observed
from tollkeeper.gateway.cached_calls import CachedCalls
from tollkeeper.gateway.cached_vectors import AnswerCache
from tollkeeper.gateway.call_record import CallRecord
from tollkeeper.gateway.candidate import Candidate, ModelCall
from tollkeeper.gateway.classifiers import Classifiers, FindAccount
from tollkeeper.gateway.evaluation import Evaluator, Judges
from tollkeeper.gateway.guarded_calls import GuardedCalls, original_call, restored, restored_result
from tollkeeper.gateway.job_results import rate_job, store_result
from tollkeeper.gateway.listener import Listener, kept_alive
from tollkeeper.gateway.moderator import CountFindings, Moderator
from tollkeeper.gateway.preparation import Preparation
from tollkeeper.gateway.recorded_content import keep_content
from tollkeeper.gateway.reserved_call import ReservedCall, reserve_as_fits, reserve_or_fall_back, started_job
from tollkeeper.gateway.results import CallResult, Estimate, IdempotentCall, Outcome, RenderResult, ReservedJob
from tollkeeper.gateway.sampled_evaluations import NoteRated, SampledEvaluations
from tollkeeper.gateway.stored_responses import StoredResponses
from tollkeeper.gateway.streaming import Deadlines, relay_stream
from tollkeeper.gateway.whole import call_once
from tollkeeper.moderation.policies import Policies
from tollkeeper.principal import Principal
from tollkeeper.providers.catalog import Catalog
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.operations import Hold, Replayed

Made = TypeVar("Made", bound=CallResult | Replayed)


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
        contents: ContentLog,
        cache: AnswerCache,
        policies: Policies,
        find_account: FindAccount,
        count_findings: CountFindings,
        judges: Judges,
        note_rated: NoteRated,
        *,
        default_output: int,
    ) -> None:
        self._ledger = ledger
        self._deadlines = deadlines
        self._responses = responses
        self._contents = contents
        self.cached = CachedCalls(ledger, cache, deadlines)
        self.catalog = catalog
        self._prepared = Preparation(catalog, default_output=default_output)
        self._moderator = Moderator(policies, Classifiers(catalog, find_account, self._classify), count_findings)
        self._guarded = GuardedCalls(self._moderator, ping_s=deadlines.ping_s, total_s=deadlines.total_s)
        self._evaluator = Evaluator(judges, catalog, partial(self._prepared.for_model, stream=False))
        self.sampled = SampledEvaluations(judges, self._evaluator, find_account, self._make_whole, note_rated)

    async def complete(
        self, record: CallRecord, call: ModelCall, idempotent: IdempotentCall | None = None
    ) -> CallResult | Replayed:
        """Make one call and return the whole answer with its charge; or the stored response of the same call.

        The call is that of the record's caller, and the record notes what becomes of it.
        Raises ModelNotFound, Forbidden, InputError, Unauthenticated, QuotaExceeded, QuotaHeld, LedgerUnavailable,
        ContentBlocked, ModerationUnavailable, IdempotencyInFlight, IdempotencyMismatch, PreviousAttemptInterrupted,
        CallFailed.
        """
        call = await self._guard(record, call, may_repeat=idempotent is not None)
        candidate = await self._prepared.candidate(record.caller, call, stream=False)
        result = await self._keep(record, candidate, self._answer(record, candidate, idempotent, None))
        return restored_result(call.guard, result)

    async def stream(
        self, record: CallRecord, call: ModelCall, listener: Listener, idempotent: IdempotentCall | None = None
    ) -> CallResult | Replayed:
        """Make one call and deliver its answer chunk by chunk; settle it before the `tail` of the outcome is sent.

        Raises as `complete` does; CallFailed also for an answer that breaks after its first chunk.
        """
        call = await self._guard(record, call, may_repeat=idempotent is not None, shows_parts=True)
        candidate = await self._prepared.candidate(record.caller, call, stream=True)
        if (guard := call.guard) is not None:
            listener = guard.restoring(listener)
        result = await self._keep(record, candidate, self._answer(record, candidate, idempotent, listener))
        await self._guarded.end_stream(guard)
        return restored_result(guard, result)

    async def _guard(
        self,
        record: CallRecord,
        call: ModelCall,
        *,
        may_repeat: bool,
        shows_parts: bool = False,
        is_made_later: bool = False,
    ) -> ModelCall:
        """The call with its guard, if its tenant has rules for it. Raises as `Moderator.guard`; ModelNotFound."""
        record.caller = call.made_by(record.caller)
        if not self._moderator.applies_to(record):
            return call
        require_model(self.catalog, record.caller, call.model)
        return await self._moderator.guard(
            record, call, may_repeat=may_repeat, shows_parts=shows_parts, is_made_later=is_made_later
        )

    async def _classify(self, record: CallRecord, call: ModelCall) -> CallResult:
        """Make the call of a classifier, whose text was checked by nothing else."""
        candidate = await self._prepared.candidate(record.caller, call, stream=False)
        record.choose(candidate, streamed=False)
        return await self._make_whole(record, candidate)

    async def _make_whole(self, record: CallRecord, candidate: Candidate) -> CallResult:
        """Make a call of this server's own."""
        result = await self._make(record, candidate, None, None)
        assert isinstance(result, CallResult)
        return result

    async def _keep(self, record: CallRecord, candidate: Candidate, call: Awaitable[Made]) -> Made:
        """Await the call. Its content is stored, and its answer rated, where the caller's tenant wants that."""
        result: CallResult | Replayed | None = None
        try:
            result = made = await call
        finally:
            if self._contents.is_on(record.caller.tenant_id):
                outcome = result.outcome if isinstance(result, CallResult) else None
                keep_content(self._contents, record, candidate, outcome)
        self.sampled.take(record, candidate.call, made)
        return made

    async def _answer(
        self,
        record: CallRecord,
        candidate: Candidate,
        idempotent: IdempotentCall | None,
        listener: Listener | None,
    ) -> CallResult | Replayed:
        """Answer the call from the cache, if that is on for it and has the answer; not one with a key or a judge."""
        record.choose(candidate, streamed=listener is not None)
        may_hit = idempotent is None and not candidate.call.evaluate
        owner = self.cached.owner_for(record.caller, candidate) if may_hit else None
        original = original_call(candidate.call)
        is_redacted = original is not candidate.call
        if owner is None or (is_redacted and original.without_output):  # vectors of placeholders have no use
            return await self._make(record, candidate, idempotent, listener)

        async def make(candidate: Candidate, listener: Listener | None) -> CallResult:
            result = await self._make(record, candidate, None, listener)
            assert isinstance(result, CallResult)
            return result

        streamed = listener is not None
        asked_for = (
            await self._prepared.for_model(original, candidate.model, stream=streamed) if is_redacted else candidate
        )
        asked = await self.cached.ask(owner, candidate, asked_for, streamed=streamed)
        return await self.cached.answer(record, asked, listener, make)

    async def _make(
        self,
        record: CallRecord,
        candidate: Candidate,
        idempotent: IdempotentCall | None,
        listener: Listener | None,
    ) -> CallResult | Replayed:
        guard = candidate.call.guard
        receiver = self._guarded.listener_for(guard, listener)
        attempt = observed(self._attempt(receiver), record, self.catalog.verdicts)
        judged = await self._evaluator.prepare(record.caller, candidate)
        make_fallback = partial(self._prepared.candidate, record.caller, stream=listener is not None)
        reserved = ReservedCall(self._ledger, record, candidate, idempotent, make_fallback, judged)
        async with reserved as reservation:
            if reservation.replayed is not None:
                assert idempotent is not None
                return self._responses.open(record.caller, idempotent, reservation.replayed)
            await self._guarded.admit(record, guard, reservation)
            called = self._call(record.caller, reserved, attempt, receiver, stream=listener is not None)
            outcome = await self._guarded.finish(record, guard, receiver, called)
            record.answered(outcome)
            if (judged is not None or idempotent is not None) and not outcome.cut_short:
                await self._guarded.end_stream(guard)  # before the judge, and what is stored is all that was sent
            if judged is not None:
                with kept_alive(listener, self._deadlines.ping_s):
                    outcome = await judged.rate(record, reservation, outcome)
            if idempotent is not None and not outcome.cut_short:
                shown = restored(guard, outcome)
                result_of = partial(CallResult, outcome=shown, fallback_for=reservation.fallback_for)
                reservation.store_response(self._responses.sealed(record.caller, idempotent, result_of))
        return CallResult(reservation.closed_charge, outcome, fallback_for=reservation.fallback_for)

    def _call(
        self,
        caller: Principal,
        reserved: ReservedCall,
        attempt: Attempt,
        listener: Listener | None,
        *,
        stream: bool,
    ) -> Awaitable[Outcome]:
        fallbacks = self._prepared.fallbacks(caller, reserved.candidate, stream=stream)
        others = partial(self._prepared.other_deployments, stream=stream)
        return call_with_fallbacks(reserved.reservation, reserved.candidate, attempt, fallbacks, others, listener)

    def _attempt(self, listener: Listener | None) -> Attempt:
        if listener is None:
            return call_once
        return partial(relay_stream, listener=listener, deadlines=self._deadlines)

    async def reserve_job(
        self, record: CallRecord, candidate: Candidate, job_id: str, lease_ms: int
    ) -> tuple[Candidate, Hold]:
        """Hold quota for a job that starts within `lease_ms`, by the byte terms of its call or by the exact ones.
        Returns the candidate that it is held for: another model's if a quota has no room for this one. The call of the
        judge is held together with it, if the call is to be evaluated.

        Raises UnsupportedParameter, Unauthenticated, QuotaExceeded, QuotaHeld, LedgerUnavailable, InvalidRequest.
        """
        judged = await self._evaluator.prepare(record.caller, candidate)
        hold_on = partial(self._ledger.reserve_for_job, record.caller, job_id=job_id, lease_ms=lease_ms)
        make_fallback = partial(self._prepared.candidate, record.caller, stream=not candidate.call.without_output)
        return await reserve_or_fall_back(candidate, lambda one: reserve_as_fits(one, judged, hold_on), make_fallback)

    async def candidate_for_job(
        self, record: CallRecord, call: ModelCall, provider: str | None = None, *, streamed: bool = True
    ) -> Candidate:
        """The call of a job, prepared for its model; with `provider`, for the model at that one.

        Its answer is streamed, so that a job which is cancelled or lost is charged for what was received. The rules of
        moderation check its input now, the classifiers when it runs. Not `streamed` is a line of a batch, which runs
        now. Raises ModelNotFound, Forbidden, InputError, ContentBlocked, ModerationUnavailable.
        """
        call = await self._guard(record, call, may_repeat=True, is_made_later=streamed and provider is None)
        if call.guard is not None and call.guard.refusal is not None:
            raise call.guard.refusal
        is_streamed = streamed and not call.without_output
        return await self._prepared.candidate(record.caller, call, stream=is_streamed, provider=provider)

    async def run_job(
        self, record: CallRecord, candidate: Candidate, job: ReservedJob | str, listener: Listener, render: RenderResult
    ) -> CallResult:
        """Make the call of a job, whose charge is dispatched first; one without a charge, of which only the id is
        given, is reserved now. `render` makes the result that is stored with the settle, unless the listener left.

        Raises LedgerConflict if the job was started or closed before; Unauthenticated, QuotaExceeded, QuotaHeld,
        LedgerUnavailable, InvalidRequest; CallFailed.
        """
        return await self._keep(record, candidate, self._make_job(record, candidate, job, listener, render))

    async def _make_job(
        self, record: CallRecord, candidate: Candidate, job: ReservedJob | str, listener: Listener, render: RenderResult
    ) -> CallResult:
        stream, guard = isinstance(job, ReservedJob) and not candidate.call.without_output, candidate.call.guard
        receiver = self._guarded.listener_for(guard, listener if stream else None)
        attempt = observed(self._attempt(receiver), record, self.catalog.verdicts)
        record.choose(candidate, streamed=stream)
        make_fallback = partial(self._prepared.candidate, record.caller, stream=stream)
        started = started_job(self._ledger, record, candidate, job, make_fallback)
        async with started as reservation:
            await self._guarded.admit(record, guard, reservation)
            called = self._call(record.caller, started, attempt, receiver or listener, stream=stream)
            outcome = await self._guarded.finish(record, guard, receiver, called)
            record.answered(outcome)
            if not outcome.cut_short:
                keep = partial(store_result, reservation, guard, render)
                if candidate.call.evaluate:
                    outcome = await rate_job(self._evaluator, record, reservation, job, outcome, keep)
                keep(outcome)
        return CallResult(reservation.closed_charge, outcome, fallback_for=reservation.fallback_for)

    async def estimate(self, caller: Principal, call: ModelCall) -> Estimate:
        """What a call would hold, without making it. Raises ModelNotFound, Forbidden, InputError."""
        candidate = await self._prepared.candidate(caller, call, stream=False, own_keys=False)
        counted = await candidate.model.provider.count_input(candidate.prepared)
        by_bytes, exact = await candidate.byte_terms(), await candidate.exact_terms()
        if (judged := await self._evaluator.prepare(caller, candidate)) is None:
            return Estimate(candidate.model, by_bytes, exact, counted)
        by_bytes, by_bytes_judge = await judged.with_byte_terms(by_bytes)
        exact, exact_judge = await judged.with_exact_terms(exact)
        return Estimate(candidate.model, by_bytes, exact, counted, (by_bytes_judge, exact_judge))

    async def count_input(self, caller: Principal, call: ModelCall) -> int:
        """The input's tokens, by the best tokenizer at hand; nothing is called or charged. Raises as `estimate`."""
        candidate = await self._prepared.candidate(caller, call, stream=False, own_keys=False)
        return await candidate.model.provider.count_input(candidate.prepared)
