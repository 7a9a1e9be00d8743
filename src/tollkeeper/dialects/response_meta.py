"""What an answer says of itself."""

from typing import NamedTuple

import msgspec

from tollkeeper.dialects.sse import Splitter


class ResponseMeta(NamedTuple):
    """The answer's id, the model as the caller named it, and when it was made, in seconds since the epoch."""

    id: str
    model: str
    created: int


class _Said(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    created: float | None = None
    created_at: float | None = None


class _Event(_Said):
    response: _Said | None = None
    message: _Said | None = None


_decode = msgspec.json.Decoder(_Event).decode


def response_meta_of(raw: bytes) -> ResponseMeta | None:
    """The head that a provider's stream has given itself, by the first events of it; None, if they do not say."""
    for event in Splitter().feed(raw):
        try:
            first = _decode(event.data)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        said = first.response or first.message or first
        if said.id:
            return ResponseMeta(said.id, said.model or "", int(said.created or said.created_at or 0))
    return None
