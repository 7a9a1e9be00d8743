"""Collects what becomes of a call while it runs, and makes its event at the end. No other code makes these events."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple

import structlog

from tollkeeper.errors import (
    ContentBlocked,
    ProviderError,
    QuotaRefusal,
    RateLimited,
    TollkeeperError,
    UpstreamError,
)
from tollkeeper.gateway.call_events import AttemptEvent, CallEvent, CallListener, ModerationEvent, Stage
from tollkeeper.gateway.candidate import Candidate
from tollkeeper.gateway.results import CallFailed, Outcome
from tollkeeper.principal import Principal
from tollkeeper.quota.reservation import Reservation
from tollkeeper.quota.rules.operations import ClosedCharge, Terms
from tollkeeper.tags import NO_TAGS
from tollkeeper.telemetry.correlation import correlation_id
from tollkeeper.telemetry.redaction import excerpt
from tollkeeper.telemetry.trace_context import TraceContext, is_sampled, new_span_id, outgoing_traceparent

log = structlog.get_logger("tollkeeper.call")


class BegunAttempt(NamedTuple):
    """A request to a provider that runs. `started_at` is by `time.perf_counter`."""

    candidate: Candidate
    charge_id: str
    span_id: str
    started_at: float


class CallRecord:
    """Collects what becomes of one call, for the length of a `with` block. The end of the block makes the event."""

    def __init__(
        self,
        caller: Principal,
        surface: str,
        trace: TraceContext,
        listeners: Sequence[CallListener],
        *,
        logs_texts: bool = False,
    ) -> None:
        self.caller = caller
        self.trace = trace
        self._logs_texts = logs_texts
        self._surface = surface
        self._listeners = listeners
        self._began_at = time.time()  # the system's clock, as in the log: the span of a trace has the same
        self._started_at = time.perf_counter()
        self._provider = self._model = ""
        self._charge: ClosedCharge | None = None
        self._terms: Terms | None = None
        self._granted_output = 0
        self._error: str | None = None
        self._refused_by: str | None = None
        self._fallback_for: str | None = None
        self._attempts: list[AttemptEvent] = []
        self._moderation: list[ModerationEvent] = []
        self._queue_seconds: float | None = None
        self._reserve: Stage | None = None
        self._settle: Stage | None = None
        self._first_output_seconds: float | None = None
        self._streamed = self._replayed = self._disconnected = False

    @property
    def charge(self) -> ClosedCharge | None:
        """How the call's charge was closed; None before, and if there is none."""
        return self._charge

    @property
    def replayed(self) -> bool:
        """Whether the response is the stored one of an earlier call."""
        return self._replayed

    @property
    def error(self) -> str | None:
        """The code of what the call failed with, so far."""
        return self._error

    def __enter__(self) -> "CallRecord":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.fail(error)
        if not self._listeners:
            return
        event = CallEvent(
            correlation_id=correlation_id.get(),
            trace=self.trace,
            tenant_id=self.caller.tenant_id,
            user_id=self.caller.user_id,
            api_key=self.caller.api_key,
            group=self.caller.group,
            tags=self.caller.tags or NO_TAGS,
            surface=self._surface,
            provider=self._provider,
            model=self._model,
            charge=self._charge,
            terms=self._terms,
            granted_output=self._granted_output,
            error=self._error,
            refused_by=self._refused_by,
            fallback_for=self._fallback_for,
            replayed=self._replayed,
            streamed=self._streamed,
            disconnected=self._disconnected,
            attempts=tuple(self._attempts),
            moderation=tuple(self._moderation),
            started_at=self._began_at,
            seconds=time.perf_counter() - self._started_at,
            queue_seconds=self._queue_seconds,
            reserve=self._reserve,
            settle=self._settle,
            first_output_seconds=self._first_output_seconds,
        )
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:
                log.exception("call.listener_failed")

    def choose(self, candidate: Candidate, *, streamed: bool) -> None:
        """Note the model that is to be called, and whether its answer is to be streamed."""
        self._provider, self._model = candidate.model.provider.name, candidate.model.name
        self._streamed = streamed

    def fall_back(self, candidate: Candidate, asked_for: str) -> None:
        """Note that the quota has no room for the model that was asked for, so that this one is called."""
        self._provider, self._model, self._fallback_for = candidate.model.provider.name, candidate.model.name, asked_for

    def reserved(self, started_at: float, waited_s: float) -> None:
        """Note a reservation that ends now, also if it was refused. `waited_s` of it were in the ledger's queue."""
        self._reserve, self._queue_seconds = self._stage_from(started_at), waited_s

    def begin_attempt(self, candidate: Candidate, charge_id: str) -> BegunAttempt:
        """A request to a provider begins: its `traceparent` is set for the current task. Give it to `end_attempt`."""
        span_id = new_span_id()
        outgoing_traceparent.set(self.trace.header_for(span_id))
        return BegunAttempt(candidate, charge_id, span_id, time.perf_counter())

    def end_attempt(self, begun: BegunAttempt, error: BaseException | None = None) -> None:
        """Note how an attempt has ended. A failure of the provider is logged."""
        provider, model = begun.candidate.model.provider.name, begun.candidate.model.name
        self._provider, self._model = provider, model
        code = code_of(error) if error is not None else None
        upstream = _upstream_of(error)
        status = upstream.status if upstream is not None else None if error is not None else 200
        started_s, seconds = self._stage_from(begun.started_at)
        self._attempts.append(
            AttemptEvent(provider, model, code, status, seconds, started_s, begun.span_id, begun.charge_id)
        )
        if isinstance(error, ProviderError):
            fields = {"provider": provider, "model": model, "code": code, "seconds": round(seconds, 6)}
            if upstream is not None:
                fields |= {"status": upstream.status, "provider_code": upstream.code}
                if self._logs_texts:
                    fields["text"] = excerpt(upstream.text)
            log.warning("provider.failed", **fields)

    def answered(self, outcome: Outcome) -> None:
        """Note the answer of the last attempt."""
        self._disconnected = outcome.cut_short
        if outcome.first_output_at is not None:
            self._first_output_seconds = outcome.first_output_at - self._started_at

    def close(self, reservation: Reservation, started_at: float) -> None:
        """Note how the charge was closed. The closing began at `started_at`, and ends now."""
        self._charge, self._replayed = reservation.closed, reservation.replayed is not None
        self._terms, self._granted_output = reservation.terms, reservation.granted_output
        self._settle = self._stage_from(started_at)

    def moderated(self, event: ModerationEvent) -> None:
        """Note what a rule has found."""
        self._moderation.append(event)

    def of_another_call(self, caller: Principal, surface: str) -> "CallRecord":
        """The record of a call that is made for this one, by another account: its event is of the same trace."""
        span_id = new_span_id()
        trace = self.trace._replace(parent_id=self.trace.span_id, span_id=span_id)
        return CallRecord(caller, surface, trace, self._listeners, logs_texts=self._logs_texts)

    def discard(self) -> None:
        """Make no event: the call is not made now, but later or elsewhere."""
        self._listeners = ()

    def book_free(self, charge: ClosedCharge, terms: Terms, started_at: float) -> None:
        """Note the charge of an answer from the cache. The booking began at `started_at`, and ends now."""
        self._charge, self._terms, self._reserve = charge, terms, self._stage_from(started_at)

    def fail(self, error: BaseException) -> None:
        """Note what the call failed with. A later call replaces an earlier one."""
        self._error, self._refused_by = code_of(error), _refuser_of(error)

    def _stage_from(self, started_at: float) -> Stage:
        """The stage that began at this time, by `time.perf_counter`, and ends now."""
        return Stage(started_at - self._started_at, time.perf_counter() - started_at)


class CallEvents:
    """Makes the records of calls, and passes their events to the `listeners`.

    `logs_texts`: the log of a provider's failure has the begin of the provider's text, which may quote the prompt.
    `trace_ratio` is the share of the traces beginning here that is recorded; callers decide for theirs.
    """

    def __init__(self, *listeners: CallListener, logs_texts: bool = False, trace_ratio: float = 0.0) -> None:
        self._listeners = listeners
        self._logs_texts = logs_texts
        self._trace_ratio = trace_ratio

    def record(self, caller: Principal, surface: str, trace: TraceContext) -> CallRecord:
        """The record of a call that begins now."""
        if self._trace_ratio and trace.parent_id is None:
            trace = trace._replace(sampled=is_sampled(trace.trace_id, self._trace_ratio))
        return CallRecord(caller, surface, trace, self._listeners, logs_texts=self._logs_texts)

    def refuse(self, caller: Principal, surface: str, error: TollkeeperError, trace: TraceContext) -> None:
        """Make the event of a call that is refused before it begins."""
        with self.record(caller, surface, trace) as record:
            record.fail(error)


def code_of(error: BaseException) -> str:
    """The code of an error, as a charge stores it. That of a CallFailed is its cause's."""
    if isinstance(error, CallFailed):
        error = error.cause
    return error.code if isinstance(error, TollkeeperError) else type(error).__name__


def _refuser_of(error: BaseException) -> str | None:
    """The quota, the setting of a rate limit, or the rule of the moderation that refused a call."""
    match error:
        case QuotaRefusal(quota=name) | RateLimited(setting=name) | ContentBlocked(rule=name):
            return name or None
        case CallFailed(cause=cause):
            return _refuser_of(cause)
        case _:
            return None


def _upstream_of(error: BaseException | None) -> UpstreamError | None:
    """The error that the provider sent: that of this failure, or of the one that led to it."""
    if not isinstance(error, ProviderError):
        return None
    return error.upstream or _upstream_of(error.__cause__)
