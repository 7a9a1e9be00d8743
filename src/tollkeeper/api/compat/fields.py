"""Reads the top-level fields of a request that the server itself needs; the rest is forwarded undecoded."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

from tollkeeper.api import strict_json
from tollkeeper.errors import InvalidJson, InvalidRequest
from tollkeeper.worker_thread import LARGE_BYTES, pause

MAX_TOKENS = 10_000_000
MAX_PIECE_LEVELS = 4
"""A large value is divided so deep: the list of messages, a message, its list of parts, a part. Each level reads the
whole value once more."""
_NAME = re.compile(r"\S{1,200}")

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


class StreamOptions(msgspec.Struct):
    """OpenAI's `stream_options`."""

    include_usage: bool = False
    include_obfuscation: bool = False


def read_fields(body: bytes) -> dict[str, msgspec.Raw]:
    """The top-level fields of a body, each as JSON; a field that is null counts as absent.

    Raises InvalidJson, InvalidRequest.
    """
    strict_json.parse(body)
    pause()
    try:
        fields = _decode(body)
    except msgspec.ValidationError:
        raise InvalidRequest("The body is not a JSON object.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidJson from None
    pause()
    return {name: value for name, value in fields.items() if bytes(memoryview(value)[:5]) != b"null"}


def decode_fields(fields: Mapping[str, bytes]) -> dict[str, Any]:
    """The values of fields that are valid JSON each. An integer of more than 64 bits becomes a float, as it is sent."""
    return {name: _decode_value(value, levels=MAX_PIECE_LEVELS) for name, value in fields.items()}


def _decode_value(value: bytes | msgspec.Raw, levels: int) -> Any:
    """The value of valid JSON. A large one is decoded piece by piece, so that no step in C takes long."""
    pause()
    json = memoryview(value)
    if len(json) > LARGE_BYTES and levels:
        match json[:1]:
            case b'"':
                return msgspec.json.decode(json)  # a third of orjson's time for a long text
            case b"[":
                return [_decode_value(item, levels - 1) for item in _decode_list(json)]
            case b"{":
                return {name: _decode_value(item, levels - 1) for name, item in _decode(json).items()}
    return orjson.loads(json)


def read_name(fields: Mapping[str, msgspec.Raw], name: str) -> str | None:
    """A string of 1 to 200 characters without white space; None if the field is absent. Raises InvalidRequest."""
    value: str | None = _read(fields, name, str, "a string")
    if value is not None and not _NAME.fullmatch(value):
        raise InvalidRequest(f"{name} must be 1 to 200 characters without white space.", parameter=name)
    return value


def read_count(fields: Mapping[str, msgspec.Raw], name: str, maximum: int = MAX_TOKENS) -> int | None:
    """An integer from 1 to `maximum`; None if the field is absent. Raises InvalidRequest."""
    value: int | None = _read(fields, name, int, "an integer")
    if value is not None and not 1 <= value <= maximum:
        raise InvalidRequest(f"{name} must be from 1 to {maximum}.", parameter=name)
    return value


def read_output_limit(fields: Mapping[str, msgspec.Raw], name: str) -> int | None:
    """An output limit in tokens; None if the field is absent, or -1: that is "no limit" to local model servers.

    Raises InvalidRequest.
    """
    return None if bytes(fields.get(name, b"")) == b"-1" else read_count(fields, name)


def read_stream_options(fields: Mapping[str, msgspec.Raw]) -> StreamOptions:
    """The options of OpenAI's streams; the defaults if the field is absent. Raises InvalidRequest."""
    if "stream_options" not in fields:
        return StreamOptions()
    try:
        return msgspec.json.decode(fields["stream_options"], type=StreamOptions)
    except msgspec.MsgspecError:
        raise InvalidRequest(
            "stream_options must be an object whose fields are true or false.", parameter="stream_options"
        ) from None


def read_flag(fields: Mapping[str, msgspec.Raw], name: str) -> bool:
    """A boolean; False if the field is absent. Raises InvalidRequest."""
    return bool(_read(fields, name, bool, "true or false"))


def _read(fields: Mapping[str, msgspec.Raw], name: str, kind: type[Any], description: str) -> Any:
    if name not in fields:
        return None
    try:
        return msgspec.json.decode(fields[name], type=kind)
    except msgspec.MsgspecError:
        raise InvalidRequest(f"{name} must be {description}.", parameter=name) from None
