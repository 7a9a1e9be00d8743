"""The types of requests and responses on /ai/*. Requests with unknown fields or wrong types are refused."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tollkeeper.api.formats import Moment
from tollkeeper.api.openapi_parts import DONE_DATA, PROBLEM, JsonSchema
from tollkeeper.principal import GROUP_NAME_PATTERN

MAX_TOKENS = 1_000_000


Model = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^\S+\Z")]
Text = Annotated[str, Meta(min_length=1)]
MaxTokens = Annotated[int, Meta(ge=1, le=MAX_TOKENS, description="The output limit, in tokens.")]
Temperature = Annotated[float, Meta(ge=0, le=2)]
SessionId = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}\Z", description="The conversation that this continues.")
]
Allocation = Annotated[int, Meta(ge=1, le=10**12, description="The maximum cost of this call, in tokens.")]
Cache = Annotated[
    bool,
    Meta(description="Whether an earlier answer to the same question may be returned. By default, the tenant decides."),
]
Evaluate = Annotated[
    bool,
    Meta(description="Whether the tenant's judge rates the answer. That is a second call, at the caller's cost."),
]


GroupName = Annotated[
    str,
    Meta(
        pattern=GROUP_NAME_PATTERN,
        description="The group that the call counts for, as in the header X-Tollkeeper-Group. By default, the user's"
        " default group.",
    ),
]
DocumentName = Annotated[str, Meta(pattern=r"^doc_[0-9a-f]{32}\Z")]


class RetrievalOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which passages are wanted: at most `top_k`; of these `documents` only, if there are any; with `min_score`, only
    those whose vector has at least this cosine with the question's.
    """

    documents: Annotated[list[DocumentName], Meta(max_length=100)] = []
    top_k: Annotated[int, Meta(ge=1, le=20)] = 5
    min_score: Annotated[float, Meta(ge=-1, le=1)] | None = None


Retrieve = Annotated[
    bool | RetrievalOptions,
    Meta(description="Whether to answer from the documents that the caller may read, and from which passages of them."),
]


class NativeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The fields that all requests have in common."""

    model: Model | None = None
    system_prompt: Text | None = None
    max_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    session_id: SessionId | None = None
    context_allocation: Allocation | None = None
    cache: Cache | None = None
    evaluate: Evaluate = False
    retrieve: Retrieve = False
    group: GroupName | None = None


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


class Source(msgspec.Struct):
    """A passage of a document that the model was given, in the order of the numbers by which it may name them. `chunk`
    is its number in the document, from 0; `quote` is how it begins; `score` is as in /ai/search.
    """

    document_id: str
    name: str
    chunk: int
    score: float | None
    quote: str


class QuotaResponse(msgspec.Struct):
    """The tightest quota after the call. Calls in flight hold `reserved`."""

    limit: int
    used: int
    reserved: int
    remaining: int
    resets_at: Moment | None


Sources = Annotated[
    list[Source] | None,
    Meta(description="Of a call with `retrieve`; an empty list if nothing in the documents is relevant."),
]


class JudgeResponse(msgspec.Struct):
    """The judge's call, and its cost. It is a charge of its own, which the `cost` of the answer does not contain."""

    query_id: str
    model: str
    provider: str
    usage: UsageResponse
    cost: int
    cost_usd: str | None


class QueryResponse(msgspec.Struct):
    """The answer and its cost. `cost` is what was deducted, in tokens times the model's weight.

    `quality_score` is from 0 to 100, for a call with `evaluate`; or null, with a `quality_score_reason`: `no_text`,
    `answer_too_long`, `judge_failed`, `judge_timeout`, `judge_refused`, `no_score` or `cancelled`. `fallback_for` is
    the model that was asked for, if a quota had no room for it, so that `model` has answered.
    """

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
    quality_score_reason: str | None
    judge: JudgeResponse | None
    from_cache: bool
    session_id: str | None
    quota: QuotaResponse | None
    sources: Sources = None
    fallback_for: str | None = None


class DeltaEvent(msgspec.Struct):
    """One event of a stream: a part of the answer."""

    content: str
    sequence: int
    is_final: bool
    correlation_id: str


class FinalEvent(msgspec.Struct):
    """The last event of a stream: the answer is complete, and its charge is settled. Of a call with `evaluate`, it has
    the `quality_score` and the `judge`, as a response that is not streamed.
    """

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
    quality_score: int | None
    quality_score_reason: str | None
    judge: JudgeResponse | None
    from_cache: bool
    session_id: str | None
    quota: QuotaResponse | None
    sources: Sources = None
    fallback_for: str | None = None


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
