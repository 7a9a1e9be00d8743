"""A call on /ai/*, and how its response is rendered: whole, or as the events of a stream."""

import time
from collections.abc import Sequence

import msgspec
import orjson

from tollkeeper.api.errors import problem_details
from tollkeeper.api.formats import iso, usd
from tollkeeper.api.native.schemas import (
    DeltaEvent,
    FinalEvent,
    JudgeResponse,
    QueryResponse,
    QuotaResponse,
    Source,
    UsageResponse,
)
from tollkeeper.chat import RefusalDelta, TextDelta, Usage
from tollkeeper.conversations import Conversation
from tollkeeper.dialects.sse import DONE, event
from tollkeeper.errors import TollkeeperError
from tollkeeper.gateway.candidate import ModelCall
from tollkeeper.gateway.results import CallResult
from tollkeeper.gateway.verdict import Verdict
from tollkeeper.providers.base import StreamChunk
from tollkeeper.quota.rules.balances import tightest
from tollkeeper.quota.rules.operations import Balance
from tollkeeper.retrieval.search import Passage
from tollkeeper.telemetry.correlation import correlation_id

MAX_QUOTE_CHARACTERS = 300

_encode = msgspec.json.Encoder().encode


class NativeExchange:
    """One call on /ai/*. `conversation` is the one that the call continues."""

    def __init__(self, call: ModelCall, *, streaming: bool = False, conversation: Conversation | None = None) -> None:
        self.call = call
        self._streaming = streaming
        self._conversation = conversation
        self._started = time.perf_counter()
        self._correlation_id = correlation_id.get()
        self._sequence = 0
        self._elapsed_s: float | None = None

    @property
    def streamed(self) -> "NativeExchange | None":
        return self if self._streaming else None

    def render(self, result: CallResult) -> bytes:
        charge, completion, verdict = result.charge, result.completion, result.outcome.verdict
        response = QueryResponse(
            query_id=charge.charge_id,
            answer=completion.text,
            model=result.model,
            provider=result.provider,
            finish_reason=completion.finish_reason,
            usage=_usage_response(charge.usage),
            cost=charge.cost_tokens,
            cost_usd=usd(charge.cost_micro_usd),
            processing_time=self._processing_time_s(),
            quality_score=verdict.score if verdict is not None else None,
            quality_score_reason=verdict.reason if verdict is not None else None,
            judge=_judge_response(verdict),
            from_cache=result.from_cache,
            session_id=self._session_id,
            quota=quota_response(tightest(charge.balances)),
            sources=_sources(self.call.passages),
            fallback_for=result.fallback_for,
        )
        return _encode(response)

    def render_chunk(self, chunk: StreamChunk) -> bytes:
        delta_event = self.delta_event(chunk)
        return event(_encode(delta_event)) if delta_event is not None else b""

    def delta_event(self, chunk: StreamChunk) -> DeltaEvent | None:
        """The event for a chunk; None if the chunk has no text."""
        text = "".join(delta.text for delta in chunk.deltas if isinstance(delta, TextDelta | RefusalDelta))
        if not text:
            return None
        delta_event = DeltaEvent(text, self._sequence, is_final=False, correlation_id=self._correlation_id)
        self._sequence += 1
        return delta_event

    def render_end(self, result: CallResult) -> bytes:
        return event(_encode(self.final_event(result))) + DONE

    def final_event(self, result: CallResult) -> FinalEvent:
        charge, verdict = result.charge, result.outcome.verdict
        return FinalEvent(
            content="",
            sequence=self._sequence,
            is_final=True,
            correlation_id=self._correlation_id,
            query_id=charge.charge_id,
            model=result.model,
            provider=result.provider,
            finish_reason=result.completion.finish_reason,
            usage=_usage_response(charge.usage),
            cost=charge.cost_tokens,
            cost_usd=usd(charge.cost_micro_usd),
            processing_time=self._processing_time_s(),
            quality_score=verdict.score if verdict is not None else None,
            quality_score_reason=verdict.reason if verdict is not None else None,
            judge=_judge_response(verdict),
            from_cache=result.from_cache,
            session_id=self._session_id,
            quota=quota_response(tightest(charge.balances)),
            sources=_sources(self.call.passages),
            fallback_for=result.fallback_for,
        )

    def render_error(self, error: TollkeeperError) -> bytes:
        _, problem, _ = problem_details(error)
        return event(orjson.dumps(problem), "error")

    async def save(self, result: CallResult) -> None:
        """Add the answer to the conversation."""
        if self._conversation is not None:
            await self._conversation.add(result.completion.text)

    @property
    def _session_id(self) -> str | None:
        return self._conversation.id if self._conversation is not None else None

    def _processing_time_s(self) -> float:
        """Measured when the response is first rendered, so that the stored response and the sent one are equal."""
        if self._elapsed_s is None:
            self._elapsed_s = round(time.perf_counter() - self._started, 3)
        return self._elapsed_s


def _judge_response(verdict: Verdict | None) -> JudgeResponse | None:
    if verdict is None or (charge := verdict.charge) is None:
        return None
    return JudgeResponse(
        query_id=charge.charge_id,
        model=verdict.model,
        provider=verdict.provider or "",
        usage=_usage_response(charge.usage),
        cost=charge.cost_tokens,
        cost_usd=usd(charge.cost_micro_usd),
    )


def _usage_response(usage: Usage) -> UsageResponse:
    return UsageResponse(usage.input_tokens, usage.output_tokens, usage.cached_input_tokens, usage.total_tokens)


def _sources(passages: Sequence[Passage] | None) -> list[Source] | None:
    if passages is None:
        return None
    return [
        Source(one.document_id, one.name, one.number, rounded(one.score), one.text[:MAX_QUOTE_CHARACTERS])
        for one in passages
    ]


def rounded(score: float | None) -> float | None:
    """A score as responses have it."""
    return None if score is None else round(score, 4)


def quota_response(balance: Balance | None) -> QuotaResponse | None:
    if balance is None:
        return None
    return QuotaResponse(balance.limit, balance.used, balance.reserved, balance.remaining, iso(balance.resets_ms))
