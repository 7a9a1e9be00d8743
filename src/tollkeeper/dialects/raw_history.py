"""Removes from requests that are passed on what earlier answers of other models left in them.

Left in are a model's own signatures and ids. Changed are seals (see `signatures`), reasoning without a valid signature,
and ids of tool calls that the provider does not accept. What has none of these is returned unchanged, byte for byte.
"""

import re
from collections.abc import Callable

import msgspec

from tollkeeper.dialects.call_ids import short_id, word_id
from tollkeeper.dialects.signatures import SEAL, has_seal, split_call_id

_EMPTY_SIGNATURE = re.compile(rb'"signature"\s*:\s*""')
_NO_WORD_ID = re.compile(rb'"tool_use_id"\s*:\s*"(?![A-Za-z0-9_-]{1,64}")')
_LONG_TOOL_CALL_ID = re.compile(rb'"tool_call_id"\s*:\s*"[^"]{65}')
_LONG_CALL_ID = re.compile(rb'"call_id"\s*:\s*"[^"]{65}')
"""In a JSON text, these are found only outside its strings: inside, quotes are escaped."""

_decode_objects = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_decode_text = msgspec.json.Decoder(str).decode
_DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_Object = dict[str, msgspec.Raw]


def clean_messages(raw: bytes, *, verified: bool) -> bytes:
    """The `messages` of a request of the messages wire.

    `verified`: the provider verifies signatures and ids; thinking with an empty signature is then left out, too.
    """
    if not (has_seal(raw) or (verified and (_EMPTY_SIGNATURE.search(raw) or _NO_WORD_ID.search(raw)))):
        return raw
    valid_id = word_id if verified else str

    def clean_block(block: _Object) -> bool:
        if _text(block, "type") == "thinking":
            signature = _text(block, "signature")
            return not (signature.startswith(SEAL) or (verified and not signature))
        _replace_ids(block, ("id", "tool_use_id"), valid_id)
        return True

    def clean_message(message: _Object) -> bool:
        return _clean_list(message, "content", clean_block)

    return _clean_objects(raw, clean_message)


def clean_chat_messages(raw: bytes, *, verified: bool) -> bytes:
    """The `messages` of a request of the chat wire. `verified`: the provider refuses long ids."""
    if not (has_seal(raw) or (verified and _LONG_TOOL_CALL_ID.search(raw))):
        return raw
    valid_id = short_id if verified else str

    def clean_call(call: _Object) -> bool:
        _replace_ids(call, ("id",), valid_id)
        return True

    def clean_message(message: _Object) -> bool:
        _replace_ids(message, ("tool_call_id",), valid_id)
        return _clean_list(message, "tool_calls", clean_call)

    return _clean_objects(raw, clean_message)


def clean_input(raw: bytes, *, verified: bool) -> bytes:
    """The `input` of a request of the responses wire. `verified`: the provider refuses long ids."""
    if not (has_seal(raw) or (verified and _LONG_CALL_ID.search(raw))):
        return raw
    valid_id = short_id if verified else str

    def clean_item(item: _Object) -> bool:
        if _text(item, "encrypted_content").startswith(SEAL):
            return False
        _replace_ids(item, ("call_id",), valid_id)
        return True

    return _clean_objects(raw, clean_item)


def _clean_objects(raw: bytes, clean: Callable[[_Object], bool]) -> bytes:
    """The objects of a JSON list for which `clean`, which may change them, is true. Another value is left as it is."""
    try:
        objects = _decode_objects(raw)
    except _DECODE_ERRORS:
        return raw
    return msgspec.json.encode([one for one in objects if clean(one)])


def _clean_list(message: _Object, name: str, clean: Callable[[_Object], bool]) -> bool:
    """Clean the objects in a field of the message; False if none are left."""
    if name not in message or bytes(memoryview(message[name])[:1]) != b"[":
        return True
    cleaned = _clean_objects(bytes(message[name]), clean)
    if cleaned == b"[]":
        return bytes(message[name]) == cleaned
    message[name] = msgspec.Raw(cleaned)
    return True


def _replace_ids(fields: _Object, names: tuple[str, ...], valid_id: Callable[[str], str]) -> None:
    for name in names:
        if (call_id := _text(fields, name)) and (new := valid_id(split_call_id(call_id)[0])) != call_id:
            fields[name] = msgspec.Raw(msgspec.json.encode(new))


def _text(fields: _Object, name: str) -> str:
    """The field's text; empty if it has none."""
    if name not in fields:
        return ""
    try:
        return _decode_text(fields[name])
    except _DECODE_ERRORS:
        return ""
