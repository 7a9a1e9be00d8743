"""The event of a call: what became of it, for the log, metrics, traces and other listeners.

Every request of an authenticated caller to a metered endpoint has one event, at its end, and so has every turn of a
WebSocket: calls that succeed, fail, are refused by a quota, or are refused before they begin. An event has what the
call knows anyway: it costs no statement of the database. `call_record.py` makes the events.
"""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from tollkeeper.quota.rules.operations import ClosedCharge, Terms
from tollkeeper.tags import NO_TAGS, Tags
from tollkeeper.telemetry.trace_context import TraceContext


class AttemptEvent(NamedTuple):
    """One request to a provider, under the charge with this id.

    `error` is our code, None for an answer; `status` is the provider's, if it is known. It began `started_s` after the
    call and took `seconds`. `span_id` is its span in the trace of the call.
    """

    provider: str
    model: str
    error: str | None
    status: int | None
    seconds: float
    started_s: float = 0.0
    span_id: str = ""
    charge_id: str = ""


class Stage(NamedTuple):
    """A part of a call: when it began, in seconds after the call, and how long it took."""

    started_s: float
    seconds: float


class ModerationEvent(NamedTuple):
    """What a rule of the tenant's moderation has found in a call: so many `findings`. `stage` is `input` or `output`.
    Only a rule that is `enforced` has changed the call.
    """

    rule: str
    kind: str
    stage: str
    action: str
    enforced: bool
    findings: int


class CallEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One call. Tokens and costs are those of the charge, which is that of the last attempt; None if there is none.

    `started_at` is when its caller was authenticated, in seconds since the epoch; all other times are counted from
    there. `terms` and `granted_output` are those of the charge: its price, and the bounds of its hold.
    `provider` and `model` are those of the last attempt, or of the call if there was none; empty if it was refused
    before its model was known. `error` is the code of the refusal or failure; `refused_by` names the quota or the
    setting that refused it. `fallback_for` is the model that was asked for, if a quota had no room for it and
    another one was called. `replayed`: the response is the stored one of an earlier call. `disconnected`: the client
    left before the end of its stream. `group` is the group that the caller named. `seconds` is the time of the
    whole call, `queue_seconds` the part of the reserve in which it waited for the ledger's journal, and
    `first_output_seconds` the time until the first output of a stream.
    """

    correlation_id: str
    trace: TraceContext
    tenant_id: int
    user_id: int
    api_key: str | None = None
    group: str | None = None
    tags: Tags = NO_TAGS
    surface: str
    provider: str = ""
    model: str = ""
    charge: ClosedCharge | None = None
    terms: Terms | None = None
    granted_output: int = 0
    error: str | None = None
    refused_by: str | None = None
    fallback_for: str | None = None
    replayed: bool = False
    streamed: bool = False
    disconnected: bool = False
    attempts: tuple[AttemptEvent, ...] = ()
    moderation: tuple[ModerationEvent, ...] = ()
    started_at: float
    seconds: float
    queue_seconds: float | None = None
    reserve: Stage | None = None
    settle: Stage | None = None
    first_output_seconds: float | None = None

    @property
    def provider_seconds(self) -> float:
        """The time of all requests to providers, in seconds."""
        return sum([attempt.seconds for attempt in self.attempts])


CallListener = Callable[[CallEvent], None]
"""Receives each event, on the event loop. It must neither block nor raise."""
