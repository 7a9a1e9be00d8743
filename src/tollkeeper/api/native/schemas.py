"""The types of requests and responses on /ai/*. Requests with unknown fields or wrong types are refused."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tollkeeper.api.formats import Moment
from tollkeeper.api.openapi_parts import DONE_DATA, PROBLEM, JsonSchema

MAX_TOKENS = 1_000_000


Model = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^\S+\Z")]
Text = Annotated[str, Meta(min_length=1)]
MaxTokens = Annotated[int, Meta(ge=1, le=MAX_TOKENS, description="The output limit, in tokens.")]
Temperature = Annotated[float, Meta(ge=0, le=2)]
SessionId = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}\Z", description="The conversation that this continues.")
]
Allocation = Annotated[int, Meta(ge=1, le=10**12, description="The maximum cost of this call, in tokens.")]
NotSupported = Annotated[
    bool, Meta(description="Not supported yet: `true` is refused.", extra_json_schema={"enum": [False]})
]


class NativeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The fields that all requests have in common."""

    model: Model | None = None
    system_prompt: Text | None = None
    max_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    session_id: SessionId | None = None
    context_allocation: Allocation | None = None
    cache: bool = False
    evaluate: NotSupported = False
    retrieve: NotSupported = False


class QueryRequest(NativeRequest, kw_only=True, forbid_unknown_fields=True):
    """One prompt. Only `prompt` is required."""

    prompt: Annotated[str, Meta(min_length=1, description="The prompt.", examples=["Why is the sky blue?"])]


class ChatMessage(msgspec.Struct, forbid_unknown_fields=True):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Text


class NativeChatRequest(NativeRequest, kw_only=True, forbid_unknown_fields=True):
    """The messages so far, the last one the user's; or one `message`. With `stream`, the answer is streamed."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)] | None = None
    message: Text | None = None
    stream: bool = False


class UsageResponse(msgspec.Struct):
    """Tokens as billed; `input_tokens` includes the cached ones."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    total_tokens: int


class QuotaResponse(msgspec.Struct):
    """The tightest quota after the call. Calls in flight hold `reserved`."""

    limit: int
    used: int
    reserved: int
    remaining: int
    resets_at: Moment | None


class QueryResponse(msgspec.Struct):
    """The answer and its cost. `cost` is what was deducted, in tokens times the model's weight."""

    query_id: str
    answer: str
    model: str
    provider: str
    finish_reason: str
    usage: UsageResponse
    cost: int
    cost_usd: str | None
    processing_time: float
    quality_score: int | None
    from_cache: bool
    session_id: str | None
    quota: QuotaResponse | None


class DeltaEvent(msgspec.Struct):
    """One event of a stream: a part of the answer."""

    content: str
    sequence: int
    is_final: bool
    correlation_id: str


class FinalEvent(msgspec.Struct):
    """The last event of a stream: the answer is complete, and its charge is settled."""

    content: str
    sequence: int
    is_final: bool
    correlation_id: str
    query_id: str
    model: str
    provider: str
    finish_reason: str
    usage: UsageResponse
    cost: int
    cost_usd: str | None
    processing_time: float
    from_cache: bool
    session_id: str | None
    quota: QuotaResponse | None


def exactly_one(*names: str) -> JsonSchema:
    """The rule that a request has exactly one of these fields. A field that is null counts as absent."""
    null = {"type": "null"}
    rules = [
        {"required": [name], "properties": {one: {"not": null} if one == name else null for one in names}}
        for name in names
    ]
    return {"allOf": [{"oneOf": rules}]}  # in `allOf`, since generators of clients take `oneOf` for all of the schema


EVENTS = (DeltaEvent, FinalEvent, PROBLEM, DONE_DATA)
"""The data of the events of a stream. A stream ends with a FinalEvent and `[DONE]`, or with a problem."""
