"""The shapes of the native AI doors. Unknown fields and wrong types are refused."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

MAX_TOKENS = 1_000_000


Model = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^\S+\Z")]
Text = Annotated[str, Meta(min_length=1)]
MaxTokens = Annotated[int, Meta(ge=1, le=MAX_TOKENS, description="The longest answer wanted.")]
Temperature = Annotated[float, Meta(ge=0, le=2)]
SessionId = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}\Z", description="The conversation that this goes on with.")
]
Allocation = Annotated[int, Meta(ge=1, le=10**12, description="The most this call may cost, in tokens.")]


class Wanted(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How to answer: the same on every native door."""

    model: Model | None = None
    system_prompt: Text | None = None
    max_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    session_id: SessionId | None = None
    context_allocation: Allocation | None = None
    cache: bool = False
    evaluate: bool = False
    retrieve: bool = False


class QueryRequest(Wanted, kw_only=True, forbid_unknown_fields=True):
    """One prompt. Only `prompt` is required."""

    prompt: Annotated[str, Meta(min_length=1, description="What to ask.", examples=["Why is the sky blue?"])]


class ChatMessage(msgspec.Struct, forbid_unknown_fields=True):
    """One turn."""

    role: Literal["system", "user", "assistant"]
    content: Text


class ChatAsked(Wanted, kw_only=True, forbid_unknown_fields=True):
    """The turns so far, the last one the user's; or one `message`. With `stream`, the answer comes as events."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)] | None = None
    message: Text | None = None
    stream: bool = False


class UsageShown(msgspec.Struct):
    """Tokens as billed; `input_tokens` includes the cached ones."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    total_tokens: int


class QuotaShown(msgspec.Struct):
    """The tightest quota after the call. `reserved` is held by calls in flight."""

    limit: int
    used: int
    reserved: int
    remaining: int
    resets_at: str | None


class QueryAnswer(msgspec.Struct):
    """The answer and what it cost. `cost` is what was deducted, in tokens after the model's weight."""

    query_id: str
    answer: str
    model: str
    provider: str
    finish_reason: str
    usage: UsageShown
    cost: int
    cost_usd: str | None
    processing_time: float
    quality_score: int | None
    from_cache: bool
    session_id: str | None
    quota: QuotaShown | None


class StreamPiece(msgspec.Struct):
    """One event of a stream: a piece of the answer."""

    content: str
    sequence: int
    is_final: bool
    correlation_id: str


class StreamEnd(msgspec.Struct):
    """The last event of a stream: the answer is whole, and settled."""

    content: str
    sequence: int
    is_final: bool
    correlation_id: str
    query_id: str
    model: str
    provider: str
    finish_reason: str
    usage: UsageShown
    cost: int
    cost_usd: str | None
    processing_time: float
    from_cache: bool
    session_id: str | None
    quota: QuotaShown | None
