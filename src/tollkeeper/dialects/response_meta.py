"""The id, model and time of an answer."""

from typing import NamedTuple

import msgspec

from tollkeeper.dialects.sse import Splitter


class ResponseMeta(NamedTuple):
    """The id of an answer, its model as the caller named it, and its creation time in seconds since the epoch."""

    id: str
    model: str
    created: int


class _Meta(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    created: float | None = None
    created_at: float | None = None


class _Event(_Meta):
    response: _Meta | None = None
    message: _Meta | None = None


_decode = msgspec.json.Decoder(_Event).decode


def response_meta_of(raw: bytes) -> ResponseMeta | None:
    """The metadata in the first events of a provider's stream; None if they have no id."""
    for event in Splitter().feed(raw):
        try:
            decoded = _decode(event.data)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        meta = decoded.response or decoded.message or decoded
        if meta.id:
            return ResponseMeta(meta.id, meta.model or "", int(meta.created or meta.created_at or 0))
    return None
