"""The types of requests and responses of the legacy routes. Requests with unknown fields or wrong types are refused."""

from typing import Annotated

import msgspec
from msgspec import Meta

from tollkeeper.api.formats import Moment
from tollkeeper.api.native.schemas import MaxTokens, Model, QueryRequest, Temperature, Text
from tollkeeper.errors import Forbidden
from tollkeeper.principal import Principal

UserId = Annotated[
    int | Annotated[str, Meta(max_length=20)],
    Meta(description="The caller's own id, as `GET /me` shows it. Any other is refused."),
]


class LegacyRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The fields that the legacy requests have in common. With `stream`, the answer is streamed."""

    system_prompt: Text | None = None
    model: Model | None = None
    max_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    user_id: UserId | None = None
    stream: bool = False


class LegacyChatRequest(LegacyRequest, kw_only=True, forbid_unknown_fields=True):
    """One message."""

    message: Text


class LegacyGenerateRequest(LegacyRequest, kw_only=True, forbid_unknown_fields=True):
    """One prompt."""

    prompt: Text


class LegacyQueryRequest(QueryRequest, kw_only=True, forbid_unknown_fields=True):
    """A request of /ai/query that may name its user."""

    user_id: UserId | None = None


class LegacyChatResponse(msgspec.Struct):
    """The answer, and the tokens that the provider bills for it."""

    response: str
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class LegacyGenerateResponse(msgspec.Struct):
    """The answer to `prompt`, and all its tokens. `timestamp` is the time of the request."""

    prompt: str
    response: str
    tokens_used: int
    timestamp: Moment


def require_own_id(caller: Principal, user_id: int | str | None) -> None:
    """Raises Forbidden if a request names another user than its caller."""
    if user_id is not None and str(user_id) != str(caller.user_id):
        raise Forbidden("user_id is not the id of the caller. Leave it out, or send the one that GET /me shows.")
