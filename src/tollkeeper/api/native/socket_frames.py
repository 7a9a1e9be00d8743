"""What a caller may say on the WebSocket, one frame each, and how it is read."""

from typing import Annotated

import msgspec
from msgspec import Meta

from tollkeeper.api import strict_json
from tollkeeper.api.native.schemas import ChatAsked
from tollkeeper.errors import InvalidJson, InvalidRequest

MAX_CANCEL_LENGTH = 2048
"""Bytes. The longest id has its place in it, even if every character of it is escaped."""

Id = Annotated[str, Meta(max_length=100)]


class Auth(msgspec.Struct, tag="auth", forbid_unknown_fields=True):
    """The first frame: who is calling."""

    token: Annotated[str, Meta(max_length=20_000)]


class Turn(ChatAsked, tag="query", kw_only=True, forbid_unknown_fields=True):
    """One question: a `prompt`, or messages as on /ai/chat. `id` comes back with every frame of the answer."""

    id: Id | None = None
    prompt: Annotated[str, Meta(min_length=1)] | None = None
    idempotency_key: Annotated[str, Meta(pattern=r"^[\x21-\x7e]{1,255}\Z")] | None = None


class Cancel(msgspec.Struct, tag="cancel", forbid_unknown_fields=True):
    """Stop the turn that runs, or the one of that `id` if it runs. What was said of it until then is paid."""

    id: Id | None = None


class _Named(msgspec.Struct):
    """As much of a frame as a refusal of it needs."""

    id: Id | None = None


_BAD = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_decode = msgspec.json.Decoder(Auth | Turn).decode
_decode_auth = msgspec.json.Decoder(Auth).decode
_decode_cancel = msgspec.json.Decoder(Cancel).decode
_decode_named = msgspec.json.Decoder(_Named).decode


def read_token(frame: bytes) -> str:
    """The token of a first frame. Raises InvalidJson."""
    try:
        return _decode_auth(frame).token
    except _BAD:
        raise InvalidJson from None


def read_turn(frame: bytes) -> Turn:
    """Raises InvalidJson, InvalidRequest."""
    strict_json.check(frame)
    try:
        found: Auth | Turn = _decode(frame)
    except msgspec.ValidationError:
        raise InvalidRequest("A frame must be auth, query or cancel, with the fields of it.") from None
    except _BAD:
        raise InvalidJson from None
    if isinstance(found, Auth):
        raise InvalidRequest("This connection is authenticated already.")
    return found


def read_cancel(frame: bytes) -> Cancel | None:
    """None, if it is no cancel. That takes no time worth counting."""
    if len(frame) > MAX_CANCEL_LENGTH:
        return None
    try:
        return _decode_cancel(frame)
    except _BAD:
        return None


def id_of(frame: bytes) -> str | None:
    """The id of a turn that is not read any further."""
    try:
        return _decode_named(frame).id
    except _BAD:
        return None
