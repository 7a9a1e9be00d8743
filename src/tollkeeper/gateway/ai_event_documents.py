"""The shapes of the events `ai.request` and `ai.response`, as `docs/events.schema.json` describes them.

They are structs of msgspec, because every call makes two of them: they are made and encoded in a fifth of the time that
dictionaries take.
"""

from datetime import datetime
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from tollkeeper.chat import Price


class Name(Struct, frozen=True):
    """A provider."""

    name: str | None


class Id(Struct, frozen=True):
    """A model, a tenant, a user, or an API key."""

    id: int | str | None


class GroupDocument(Struct, frozen=True):
    """The group that a call counts for: the id that its charge has, and the name that the caller sent."""

    id: int | None
    name: str | None


class ErrorDocument(Struct, frozen=True):
    """Why a call failed: our code, and the quota or the setting that refused it."""

    code: str
    refused_by: str | None


class UsageDocument(Struct, frozen=True):
    """Tokens, as charged."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    total_tokens: int


class ClosedChargeDocument(Struct, frozen=True):
    """A charge, as it was closed. Its time is in its id."""

    id: str
    basis: str
    cost_tokens: int
    cost_micro_usd: int | None
    overrun: bool


class PriceDocument(Struct, frozen=True):
    """A price, in micro-USD per million tokens."""

    input: int
    cached_input: int
    output: int
    cache_write: int | None

    @classmethod
    def of(cls, price: Price) -> "PriceDocument":
        """The document of a price."""
        return cls(*price)


class BookableChargeDocument(ClosedChargeDocument, frozen=True):
    """A charge with what is needed to book it anew: its price and its bounds."""

    weight_milli: int
    price: PriceDocument | None
    input_bound: int
    granted_output: int


class AttemptDocument(Struct, frozen=True):
    """A request to a provider. `started` is in seconds after the begin of the call."""

    provider: str
    model: str | None
    charge_id: str
    span_id: str
    error: str | None
    status: int | None
    started: float
    seconds: float


class ModerationDocument(Struct, frozen=True):
    """What a rule of the tenant's moderation has found: so many `findings`. Only an `enforced` one changed the call."""

    rule: str
    kind: str
    stage: str
    action: str
    enforced: bool
    findings: int


class UnenforcedDocument(Struct, frozen=True):
    """A quota that only reports, and the code of the error that it would have refused the call with."""

    quota: str
    code: str


class DurationsDocument(Struct, frozen=True):
    """Times in seconds; None for what there was not."""

    total: float
    queue: float | None
    reserve: float | None
    first_output: float | None
    provider: float | None
    settle: float | None


class RequestData(Struct, frozen=True):
    """Which call it is, and whose."""

    request_type: str
    surface: str
    streamed: bool
    provider: Name
    model: Id
    tenant: Id
    user: Id
    api_key: Id | None
    group: GroupDocument | None
    tags: dict[str, str]


class ResponseData(RequestData, frozen=True):
    """What became of it."""

    status: str
    error: ErrorDocument | None
    usage: UsageDocument | None
    charge: ClosedChargeDocument | None
    attempts: list[AttemptDocument]
    durations: DurationsDocument
    moderation: list[ModerationDocument] | UnsetType = UNSET
    """What rules have found; absent if none has."""
    would_refuse: list[UnenforcedDocument] | UnsetType = UNSET
    """Quotas that only report, and would have refused the call; absent if there are none."""
    fallback_for: str | UnsetType = UNSET
    """The model that was asked for, if a quota had no room for it; absent otherwise."""


class EventDocument(Struct, frozen=True):
    """An event. `event_id` is unique: an event that is sent twice has the same."""

    event_type: Literal["ai.request", "ai.response"]
    event_id: str
    time: datetime
    correlation_id: str
    trace_id: str
    span_id: str
    parent_span_id: str | None
    data: RequestData
