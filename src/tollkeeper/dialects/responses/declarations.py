"""Leaves out of a request what the provider would host and bill: tools that are only declared, and their items."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from tollkeeper.dialects.dropped import Dropped
from tollkeeper.dialects.hosted_tools import UNREADABLE, leave_out_tools

Fields = Mapping[str, msgspec.Raw]

HOSTED_INCLUDE = re.compile(r"(web_search_call|file_search_call|code_interpreter_call)\.[a-z_.]+")
"""The values of `include` that belong to hosted tools."""
UNBOUNDED_ITEM = "image_generation_call"
"""An item of an earlier answer with a picture, whose tokens its bytes do not bound."""


class _Type(msgspec.Struct):
    type: str | None = None


_decode_types = msgspec.json.Decoder(list[_Type]).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_strings = msgspec.json.Decoder(list[str]).decode


def leave_out_hosted(fields: Fields, dropped: Dropped) -> Fields:
    """The fields without hosted tools, what they would include, and pictures that they made; `dropped` receives names.

    What cannot be read is returned as it is. Raises UnsupportedParameter as `leave_out_tools` does.
    """
    kept = leave_out_tools(fields, dropped)
    for leave_out in (_without_includes, _without_items):
        try:
            kept = leave_out(kept, dropped)
        except UNREADABLE:
            continue
    return kept


def _without_includes(fields: Fields, dropped: Dropped) -> Fields:
    if "include" not in fields:
        return fields
    values = _decode_strings(fields["include"])
    kept = [value for value in values if not HOSTED_INCLUDE.fullmatch(value)]
    if len(kept) == len(values):
        return fields
    dropped.add("include")
    return {**fields, "include": _encoded(kept)}


def _without_items(fields: Fields, dropped: Dropped) -> Fields:
    raw = bytes(fields.get("input", b""))
    if b'"' + UNBOUNDED_ITEM.encode() + b'"' not in raw:
        return fields
    items = zip(_decode_list(raw), _decode_types(raw), strict=True)
    kept = [item for item, kind in items if kind.type != UNBOUNDED_ITEM]
    dropped.add(UNBOUNDED_ITEM)
    return {**fields, "input": _encoded(kept)}


def _encoded(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
