"""What became of a call: each has one CallEvent, at its end, for the log and for whatever else listens.

This is the only place that makes these events. Every request of an authenticated caller to a metered endpoint has one,
and every turn of a WebSocket: calls that succeed, fail, are refused by a quota, or are refused before they begin. An
event has what the call knows anyway: it costs no statement of the database.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Any, NamedTuple

import structlog

from tollkeeper.errors import ProviderError, TollkeeperError, UpstreamError
from tollkeeper.gateway.candidate import Candidate
from tollkeeper.gateway.results import CallFailed, Outcome
from tollkeeper.principal import Principal
from tollkeeper.quota.rules.operations import ClosedCharge
from tollkeeper.telemetry.logging import correlation_id
from tollkeeper.telemetry.redaction import excerpt, redact

log = structlog.get_logger("tollkeeper.call")


class AttemptEvent(NamedTuple):
    """One call of a provider. `error` is our code, None for an answer; `status` is the provider's, if it is known."""

    provider: str
    model: str
    error: str | None
    status: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class CallEvent:
    """One call. Tokens and costs are those of the charge, which is that of the last attempt; None if there is none.

    `provider` and `model` are those of the last attempt, or of the call if there was none; empty if it was refused
    before its model was known. `error` is the code of the refusal or failure. `disconnected`: the client left before
    the end of its stream. `seconds` is the time since the caller was authenticated, `reserve_seconds` the part of it
    that the reservation took, and `first_output_seconds` that until the first output of a stream.
    """

    correlation_id: str
    tenant_id: int
    user_id: int
    api_key: str | None
    surface: str
    provider: str
    model: str
    charge: ClosedCharge | None
    error: str | None
    disconnected: bool
    attempts: tuple[AttemptEvent, ...]
    seconds: float
    reserve_seconds: float | None
    first_output_seconds: float | None


CallListener = Callable[[CallEvent], None]
"""Receives each event, on the event loop. It must neither block nor raise."""


class CallRecord:
    """Collects what becomes of one call, for the length of a `with` block. The end of the block makes the event."""

    def __init__(
        self, caller: Principal, surface: str, listeners: Sequence[CallListener], *, logs_texts: bool = False
    ) -> None:
        self.caller = caller
        self._logs_texts = logs_texts
        self._surface = surface
        self._listeners = listeners
        self._started_at = time.perf_counter()
        self._provider = self._model = ""
        self._charge: ClosedCharge | None = None
        self._error: str | None = None
        self._attempts: list[AttemptEvent] = []
        self._reserve_seconds: float | None = None
        self._first_output_seconds: float | None = None
        self._disconnected = False

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
            tenant_id=self.caller.tenant_id,
            user_id=self.caller.user_id,
            api_key=self.caller.api_key,
            surface=self._surface,
            provider=self._provider,
            model=self._model,
            charge=self._charge,
            error=self._error,
            disconnected=self._disconnected,
            attempts=tuple(self._attempts),
            seconds=time.perf_counter() - self._started_at,
            reserve_seconds=self._reserve_seconds,
            first_output_seconds=self._first_output_seconds,
        )
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:
                log.exception("call.listener_failed")

    def choose(self, candidate: Candidate) -> None:
        """Note the model that is to be called."""
        self._provider, self._model = candidate.model.provider.name, candidate.model.name

    def reserved(self, seconds: float) -> None:
        """Note how long the reservation took, also if it was refused."""
        self._reserve_seconds = seconds

    def attempted(self, candidate: Candidate, seconds: float, error: BaseException | None = None) -> None:
        """Note an attempt. A failure of the provider is logged."""
        provider, model = candidate.model.provider.name, candidate.model.name
        self._provider, self._model = provider, model
        code = code_of(error) if error is not None else None
        upstream = _upstream_of(error)
        status = upstream.status if upstream is not None else None if error is not None else 200
        self._attempts.append(AttemptEvent(provider, model, code, status, seconds))
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

    def close(self, charge: ClosedCharge | None) -> None:
        """Note how the charge was closed."""
        self._charge = charge

    def fail(self, error: BaseException) -> None:
        """Note what the call failed with. A later call replaces an earlier one."""
        self._error = code_of(error)


class CallEvents:
    """Makes the records of calls, and passes their events to the `listeners`.

    `logs_texts`: the log of a provider's failure has the begin of the provider's text, which may quote the prompt.
    """

    def __init__(self, *listeners: CallListener, logs_texts: bool = False) -> None:
        self._listeners = listeners
        self._logs_texts = logs_texts

    def record(self, caller: Principal, surface: str) -> CallRecord:
        """The record of a call that begins now."""
        return CallRecord(caller, surface, self._listeners, logs_texts=self._logs_texts)

    def refuse(self, caller: Principal, surface: str, error: TollkeeperError) -> None:
        """Make the event of a call that is refused before it begins."""
        with self.record(caller, surface) as record:
            record.fail(error)


def code_of(error: BaseException) -> str:
    """The code of an error, as a charge stores it. That of a CallFailed is its cause's."""
    if isinstance(error, CallFailed):
        error = error.cause
    return error.code if isinstance(error, TollkeeperError) else type(error).__name__


def _upstream_of(error: BaseException | None) -> UpstreamError | None:
    """The error that the provider sent: that of this failure, or of the one that led to it."""
    if not isinstance(error, ProviderError):
        return None
    return error.upstream or _upstream_of(error.__cause__)


_redacted = lru_cache(1_000)(redact)
"""A caller may put a secret in the place of a model's name. There are few names, and the patterns cost 2 µs."""


def call_log(write: Callable[[dict[str, Any]], None]) -> CallListener:
    """A listener that logs one line for each call."""

    def log_call(event: CallEvent) -> None:
        line: dict[str, Any] = {
            "event": "call.finished",
            "surface": event.surface,
            "provider": event.provider,
            "model": _redacted(event.model),
            "tenant_id": event.tenant_id,
            "user_id": event.user_id,
            "api_key": event.api_key,
            "error": event.error,
            "disconnected": event.disconnected or None,
            "attempts": len(event.attempts),
            "seconds": round(event.seconds, 6),
        }
        if (charge := event.charge) is not None:
            line["charge_id"] = charge.charge_id
            line["basis"] = charge.basis
            line["input_tokens"], line["output_tokens"] = charge.usage.input_tokens, charge.usage.output_tokens
            line["cost_tokens"], line["cost_micro_usd"] = charge.cost_tokens, charge.cost_micro_usd
        line["correlation_id"] = event.correlation_id
        write(line)

    return log_call
