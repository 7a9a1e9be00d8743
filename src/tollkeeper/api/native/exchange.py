"""How the native doors say an answer, in one piece or many."""

import time

import msgspec
import orjson

from tollkeeper.api.errors import problem
from tollkeeper.api.formats import iso, usd
from tollkeeper.api.native.schemas import QueryAnswer, QuotaShown, StreamEnd, StreamPiece, UsageShown
from tollkeeper.chat import RefusalDelta, TextDelta, Usage
from tollkeeper.conversations import Conversation
from tollkeeper.dialects.sse import DONE, event
from tollkeeper.errors import TollkeeperError
from tollkeeper.gateway.candidate import ModelCall
from tollkeeper.gateway.results import CallResult
from tollkeeper.providers.base import StreamChunk
from tollkeeper.quota.rules.balances import tightest
from tollkeeper.quota.rules.operations import Balance
from tollkeeper.telemetry.logging import correlation_id

_encode = msgspec.json.Encoder().encode


class NativeExchange:
    """A call through a native door. `conversation` is the one it goes on with."""

    def __init__(self, ask: ModelCall, *, streaming: bool = False, conversation: Conversation | None = None) -> None:
        self.ask = ask
        self._streaming = streaming
        self._conversation = conversation
        self._started = time.perf_counter()
        self._correlation_id = correlation_id.get()
        self._sequence = 0
        self._took: float | None = None

    @property
    def streamed(self) -> "NativeExchange | None":
        return self if self._streaming else None

    def whole(self, answer: CallResult) -> bytes:
        return _encode(self.shown(answer))

    def shown(self, answer: CallResult) -> QueryAnswer:
        """The answer and what it cost."""
        charge, completion = answer.charge, answer.completion
        return QueryAnswer(
            query_id=charge.charge_id,
            answer=completion.text,
            model=answer.model,
            provider=answer.provider,
            finish_reason=completion.finish_reason,
            usage=show_usage(charge.usage),
            cost=charge.cost_tokens,
            cost_usd=usd(charge.cost_micro_usd),
            processing_time=self._seconds(),
            quality_score=None,
            from_cache=False,
            session_id=self._session_id,
            quota=show_quota(tightest(charge.balances)),
        )

    def piece(self, piece: StreamChunk) -> bytes:
        said = self.said(piece)
        return event(_encode(said)) if said is not None else b""

    def said(self, piece: StreamChunk) -> StreamPiece | None:
        """Each event of the provider that brings text is one of ours."""
        text = "".join(delta.text for delta in piece.deltas if isinstance(delta, TextDelta | RefusalDelta))
        if not text:
            return None
        said = StreamPiece(text, self._sequence, is_final=False, correlation_id=self._correlation_id)
        self._sequence += 1
        return said

    def end(self, answer: CallResult) -> bytes:
        return event(_encode(self.ending(answer))) + DONE

    def ending(self, answer: CallResult) -> StreamEnd:
        """What the last event says."""
        charge = answer.charge
        return StreamEnd(
            content="",
            sequence=self._sequence,
            is_final=True,
            correlation_id=self._correlation_id,
            query_id=charge.charge_id,
            model=answer.model,
            provider=answer.provider,
            finish_reason=answer.completion.finish_reason,
            usage=show_usage(charge.usage),
            cost=charge.cost_tokens,
            cost_usd=usd(charge.cost_micro_usd),
            processing_time=self._seconds(),
            from_cache=False,
            session_id=self._session_id,
            quota=show_quota(tightest(charge.balances)),
        )

    def broken(self, error: TollkeeperError) -> bytes:
        _, body, _ = problem(error)
        return event(orjson.dumps(body), "error")

    async def remember(self, answer: CallResult) -> None:
        if self._conversation is not None:
            await self._conversation.add(answer.completion.text)

    @property
    def _session_id(self) -> str | None:
        return self._conversation.id if self._conversation is not None else None

    def _seconds(self) -> float:
        """Until the answer was first said: what is kept of it is what was sent."""
        if self._took is None:
            self._took = round(time.perf_counter() - self._started, 3)
        return self._took


def show_usage(usage: Usage) -> UsageShown:
    return UsageShown(usage.input_tokens, usage.output_tokens, usage.cached_input_tokens, usage.total_tokens)


def show_quota(balance: Balance | None) -> QuotaShown | None:
    if balance is None:
        return None
    return QuotaShown(balance.limit, balance.used, balance.reserved, balance.remaining, iso(balance.resets_ms))
