"""Answers calls from the cache, and has one of several calls with the same question ask it for all.

A call that is answered so is booked at no cost before it is answered: the ledger checks the caller's account again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from tollkeeper.gateway.cache_status import MISS, CacheStatus
from tollkeeper.gateway.cached_answer import CachedAnswer, answer_of, question_of
from tollkeeper.gateway.cached_vectors import AnswerCache, Asked, VectorCall, has_vectors, inputs_of
from tollkeeper.gateway.call_record import CallRecord
from tollkeeper.gateway.candidate import Candidate
from tollkeeper.gateway.leading_listener import LeadingListener
from tollkeeper.gateway.listener import Listener
from tollkeeper.gateway.results import CallResult
from tollkeeper.gateway.streaming import Deadlines
from tollkeeper.principal import Principal
from tollkeeper.quota.ledger import Ledger
from tollkeeper.response_cache.flights import Flight, Flights
from tollkeeper.response_cache.questions import Owner, key_of
from tollkeeper.worker_thread import run_by_size

MakeCall = Callable[[Candidate, Listener | None], Awaitable[CallResult]]
"""Makes a call with its provider, and settles it."""


class CachedCalls:
    """Answers calls from `cache`.

    A call waits at most as long for the answer to another one as a call may take; one that is streamed, as long as a
    stream may be silent. A client has the time of a whole stream to take a kept answer.
    """

    def __init__(self, ledger: Ledger, cache: AnswerCache, deadlines: Deadlines) -> None:
        self._ledger = ledger
        self._cache = cache
        self._flights: Flights[CachedAnswer] = Flights()
        self._deadlines = deadlines

    def owner_for(self, caller: Principal, candidate: Candidate) -> Owner | None:
        """Whose answers a call may receive, whose model the caller may use; None if the cache is off for it. With
        retrieval, it is the caller's alone: others may not read the same documents.
        """
        owner = self._cache.owner_for(caller.tenant_id, caller.user_id, wanted=candidate.call.cache)
        if owner is None or candidate.call.passages is None:
            return owner
        return owner._replace(user_id=caller.user_id)

    def may_keep(self, caller: Principal, *, wanted: bool | None) -> bool:
        """Whether the answer of such a call may be kept."""
        return self._cache.owner_for(caller.tenant_id, caller.user_id, wanted=wanted) is not None

    async def ask(self, owner: Owner, candidate: Candidate, original: Candidate, *, streamed: bool) -> Asked:
        """The question of a call for which the cache is on. `original` is the call before anything was redacted."""
        generation = self._cache.generation
        question = question_of(owner, original, candidate, streamed=streamed)
        if has_vectors(candidate):
            inputs = await run_by_size(len(question.body), inputs_of, question)
            return Asked(candidate, owner, inputs.key, generation, inputs)
        key = await run_by_size(len(question.body), key_of, question)
        return Asked(candidate, owner, key, generation)

    async def answer(self, record: CallRecord, asked: Asked, listener: Listener | None, make: MakeCall) -> CallResult:
        """The kept answer; or that of a call with the same question which is running; or what `make` returns.

        Raises what `make` raises, and for an answer at no cost what `Ledger.book_free` raises.
        """
        vectors = None if asked.inputs is None else VectorCall(self._cache, asked)
        found = self._kept(asked) if vectors is None else await vectors.answer()
        if found is not None:
            self._cache.hits += 1
            return await self._serve(record, asked, listener, *found)
        flight = self._flights.find(asked.key)
        if flight is None:
            self._cache.misses += 1
            return await self._lead(asked, listener, vectors, make)
        self._cache.waiting += 1
        try:
            answer = await flight.wait(self._deadlines.total_s if listener is None else self._deadlines.idle_s)
        finally:
            self._cache.waiting -= 1
        if answer is not None:
            self._cache.joined += 1
            return await self._serve(record, asked, listener, answer, 0.0)
        self._cache.misses += 1
        if listener is not None:
            listener.cache_status = MISS
        return replace(await make(asked.candidate, listener), cache=MISS)

    def _kept(self, asked: Asked) -> tuple[CachedAnswer, float] | None:
        """The kept answer to a question, and its age in seconds."""
        if (found := self._cache.get(asked.owner, asked.key)) is None:
            return None
        answer, age_s = found
        assert isinstance(answer, CachedAnswer)
        return answer, age_s

    async def _lead(
        self, asked: Asked, listener: Listener | None, vectors: VectorCall | None, make: MakeCall
    ) -> CallResult:
        """Make the call, keep its answer, and give it to the calls that have waited for it."""
        with self._flights.lead(asked.key) as flight:
            if vectors is not None:
                sent = await vectors.candidate()
                result, answer = await vectors.complete(await make(sent, None), sent)
            else:
                result, answer = await self._make_and_keep(asked, listener, flight, make)
            flight.land(answer)
        return replace(result, cache=MISS)

    async def _make_and_keep(
        self, asked: Asked, listener: Listener | None, flight: Flight[CachedAnswer], make: MakeCall
    ) -> tuple[CallResult, CachedAnswer | None]:
        leading = None
        if listener is not None:
            listener.cache_status = MISS
            leading = LeadingListener(listener, flight, records=asked.candidate.prepared.raw)
        result = await make(asked.candidate, leading)
        chunks = tuple(leading.chunks) if leading is not None else ()
        answer = answer_of(result, asked.candidate, chunks, streamed=leading is not None)
        if answer is not None:
            self._cache.put(asked.owner, asked.key, answer, size=answer.size, generation=asked.generation)
        return result, answer

    async def _serve(
        self, record: CallRecord, asked: Asked, listener: Listener | None, answer: CachedAnswer, age_s: float
    ) -> CallResult:
        """Book the call at no cost, and deliver the answer, if it is to be streamed."""
        started_at = time.perf_counter()
        terms = asked.candidate.free_terms
        charge = await self._ledger.book_free(record.caller, terms)
        record.book_free(charge, terms, started_at)
        status = CacheStatus(charge, int(age_s), answer.basis)
        outcome = answer.outcome(asked.candidate)
        if (guard := asked.candidate.call.guard) is not None and answer.placeholders:
            guard.placeholders.adopt(answer.placeholders)
        if listener is not None:
            listener.cache_status = status
            try:
                async with asyncio.timeout(self._deadlines.total_s):
                    for chunk in answer.stream():
                        await listener.deliver(chunk)
            except TimeoutError:
                outcome = outcome._replace(cut_short=True)
        return CallResult(charge, outcome, status)
