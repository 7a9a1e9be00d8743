"""A request to /ai/* as it was parsed, before anything is looked up for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tollkeeper.api.keyed_requests import keyed_request_of
from tollkeeper.api.native.schemas import NativeRequest
from tollkeeper.chat import Message
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest
from tollkeeper.retrieval.search import Passage

AnyRequest = TypeVar("AnyRequest", bound=NativeRequest)


@dataclass(slots=True)
class ParsedRequest(Generic[AnyRequest]):
    """A request with its messages. `size` is that of its body, in bytes. `keyed_request` is its idempotency key, which
    only retrieval needs. The `passages` of a request that was stored with them are those that it has.
    """

    request: AnyRequest
    messages: tuple[Message, ...]
    size: int
    keyed_request: KeyedRequest | None = None
    passages: Sequence[Passage] | None = None
    surface: str | None = None
    """How the request came in, if not at its endpoint."""
    body: bytes = b""
    """What the request was parsed from, if it has retrieval."""


def parsed_request(request: AnyRequest, messages: tuple[Message, ...], body: bytes) -> ParsedRequest[AnyRequest]:
    """A request that was parsed from this body."""
    return ParsedRequest(request, messages, len(body), body=body if request.retrieve else b"")


def note_key(parsed: Any, headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Note the idempotency key of a request with retrieval. Raises InvalidJson."""
    if parsed.body:
        parsed.keyed_request = keyed_request_of(headers, "retrieve", parsed.body)
        parsed.body = b""


def group_of(parsed: Any) -> str | None:
    """The group that the body of a request names."""
    group: str | None = parsed.request.group
    return group
