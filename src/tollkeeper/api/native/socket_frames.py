"""The frames that a client sends on the WebSocket, and how they are read."""

from typing import Annotated

import msgspec
from msgspec import Meta

from tollkeeper.api import strict_json
from tollkeeper.api.invalid_fields import invalid_request
from tollkeeper.api.native.schemas import NativeChatRequest
from tollkeeper.errors import InvalidJson, InvalidRequest

MAX_CANCEL_LENGTH = 2048
"""In bytes. Enough for the longest id with every character of it escaped."""

Id = Annotated[str, Meta(max_length=100)]


class AuthFrame(msgspec.Struct, tag="auth", forbid_unknown_fields=True):
    """The first frame: the access token."""

    token: Annotated[str, Meta(max_length=20_000)]


class TurnFrame(NativeChatRequest, tag="query", kw_only=True, forbid_unknown_fields=True):
    """Starts a turn, with a `prompt`, or with messages as on /ai/chat. Every frame of the answer has its `id`."""

    id: Id | None = None
    prompt: Annotated[str, Meta(min_length=1)] | None = None
    idempotency_key: Annotated[str, Meta(pattern=r"^[\x21-\x7e]{1,255}\Z")] | None = None


class CancelFrame(msgspec.Struct, tag="cancel", forbid_unknown_fields=True):
    """Stops the running turn; with an `id`, only if the turn has it. What was received until then is charged."""

    id: Id | None = None


class _FrameId(msgspec.Struct):
    """The part of a frame that its refusal needs."""

    id: Id | None = None


_INVALID = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_decode_id = msgspec.json.Decoder(_FrameId).decode


def read_token(frame: bytes) -> str:
    """The token of a first frame. Raises InvalidJson."""
    try:
        return msgspec.convert(strict_json.parse(frame), AuthFrame).token
    except msgspec.ValidationError:
        raise InvalidJson from None


def read_turn(frame: bytes) -> TurnFrame:
    """Raises InvalidJson, InvalidRequest."""
    try:
        decoded: AuthFrame | TurnFrame = msgspec.convert(strict_json.parse(frame), AuthFrame | TurnFrame)
    except msgspec.ValidationError as error:
        message = str(error)
        if "`type`" in message or message.endswith("`$.type`"):
            raise InvalidRequest("type must be auth, query or cancel.") from None
        raise invalid_request(TurnFrame, message) from None
    if isinstance(decoded, AuthFrame):
        raise InvalidRequest("This connection is authenticated already.")
    return decoded


def read_cancel(frame: bytes) -> CancelFrame | None:
    """None if the frame is no cancel. The length limit keeps this fast, as rate limits do not count cancels."""
    if len(frame) > MAX_CANCEL_LENGTH:
        return None
    try:
        return msgspec.convert(strict_json.parse(frame), CancelFrame)
    except (InvalidJson, msgspec.ValidationError):
        return None


def read_id(frame: bytes) -> str | None:
    """The id of a frame that is refused, if it has a valid one."""
    try:
        return _decode_id(frame).id
    except _INVALID:
        return None
