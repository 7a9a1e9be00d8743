"""The shapes of the native AI doors. Unknown fields and wrong types are refused."""

from typing import Annotated

import msgspec
from msgspec import Meta

MOST_TOKENS = 1_000_000


class QueryRequest(msgspec.Struct, forbid_unknown_fields=True):
    """One prompt. Only `prompt` is required."""

    prompt: Annotated[str, Meta(min_length=1, description="What to ask.", examples=["Why is the sky blue?"])]
    model: Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^\S+\Z")] | None = None
    system_prompt: Annotated[str, Meta(min_length=1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=MOST_TOKENS, description="The longest answer wanted.")] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    session_id: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    context_allocation: (
        Annotated[int, Meta(ge=1, le=10**12, description="The most this call may cost, in tokens.")] | None
    ) = None
    cache: bool = False
    evaluate: bool = False
    retrieve: bool = False


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
