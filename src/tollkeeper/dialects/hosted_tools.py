"""Hosted tools in OpenAI's wire formats: those that are only declared are left out of a request.

The provider would run and bill them. A client declares such tools in every request; the answer does not need them,
unless the request forces their use.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from tollkeeper.dialects.dropped import Dropped
from tollkeeper.dialects.parameters import unsupported

HOSTED_PATTERN = "^(web_search|web_search_preview|file_search|code_interpreter|image_generation|mcp)(_[0-9_]{8,10})?$"
"""The types of tools that the provider runs, without and with their date. By default it runs `tool_search`, too."""
_HOSTED_TOOL = re.compile(HOSTED_PATTERN)

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _Kind(msgspec.Struct):
    type: str | None = None
    execution: str | None = None

    @property
    def hosted(self) -> str | None:
        """The name of a hosted tool; None for another one. The caller can run the search for tools, too."""
        if self.type == "tool_search":
            return self.type if self.execution in {None, "server"} else None
        found = _HOSTED_TOOL.fullmatch(self.type or "")
        return found[1] if found else None


_decode_kinds = msgspec.json.Decoder(list[_Kind]).decode
_decode_value = msgspec.json.Decoder().decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


def leave_out_tools(fields: Mapping[str, msgspec.Raw], dropped: Dropped) -> Mapping[str, msgspec.Raw]:
    """The fields without hosted tools; `dropped` receives their names. Fields that cannot be read are left as they are.

    Raises UnsupportedParameter if `tool_choice` requires a tool and none is left.
    """
    if "tools" not in fields:
        return fields
    try:
        kinds = _decode_kinds(fields["tools"])
    except UNREADABLE:
        return fields
    hosted = [name for kind in kinds if (name := kind.hosted) is not None]
    if not hosted:
        return fields
    kept = [tool for tool, kind in zip(_decode_list(fields["tools"]), kinds, strict=True) if kind.hosted is None]
    dropped.add(*hosted)
    if not kept:
        if bytes(fields.get("tool_choice", b"")) == b'"required"':
            raise unsupported("tool_choice")
        is_forced = bytes(fields.get("tool_choice", b'"'))[:1] != b'"'
        left_out = {"tools"} if is_forced else {"tools", "tool_choice"}
        return {name: value for name, value in fields.items() if name not in left_out}
    left = [_loaded(_decode_value(tool)) for tool in kept] if "tool_search" in hosted else kept
    return {**fields, "tools": msgspec.Raw(msgspec.json.encode(left))}


def _loaded(tool: Any) -> Any:
    """A tool whose loading is not deferred: without the search for tools, the model could not find it."""
    if not isinstance(tool, dict):
        return tool
    tool.pop("defer_loading", None)
    if isinstance(tool.get("tools"), list):
        tool["tools"] = [_loaded(inner) for inner in tool["tools"]]
    return tool
