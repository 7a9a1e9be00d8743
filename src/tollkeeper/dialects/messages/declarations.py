"""Leaves out of a request what the provider would host and bill: tools that are only declared, and their old results.

A client declares such tools in every request. The answer does not need them, unless the request forces their use.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from tollkeeper.dialects.dropped import Dropped
from tollkeeper.dialects.parameters import unsupported

Fields = Mapping[str, msgspec.Raw]

HOSTED_TOOL = re.compile(r"(web_search|web_fetch|code_execution|tool_search_tool|advisor)(_regex|_bm25)?(_[0-9]{8})?")
"""The types of tools that the provider runs. Their first part is the name in the header."""
HOSTED_CALL = "server_tool_use"
HOSTED_RESULT = re.compile(r"[a-z_]+_tool_result")
"""The types of blocks with the results of hosted tools; `tool_result` itself is that of the caller's own."""
_HISTORY_MARKS = (b'"server_tool_use"', b'_tool_result"')

BETAS = frozenset(
    {
        "adaptive-thinking-2026-01-28",
        "advanced-tool-use-2025-11-20",
        "claude-code-20250219",
        "context-management-2025-06-27",
        "effort-2025-11-24",
        "extended-cache-ttl-2025-04-11",
        "fine-grained-tool-streaming-2025-05-14",
        "interleaved-thinking-2025-05-14",
        "mid-conversation-system-2026-04-07",
        "output-128k-2025-02-19",
        "pdfs-2024-09-25",
        "prompt-caching-2024-07-31",
        "prompt-caching-scope-2026-01-05",
        "structured-outputs-2025-11-13",
        "token-counting-2024-11-01",
        "token-efficient-tools-2025-02-19",
        "tool-examples-2025-10-29",
        "tool-search-tool-2025-10-19",
    }
)
"""The betas that are forwarded: none of them changes a price. Others may: a long context, a fast mode, hosted tools."""
MAX_BETAS = 64
"""Of one request. More are not read."""


class _Kind(msgspec.Struct):
    type: str | None = None
    name: str | None = None


_decode_kinds = msgspec.json.Decoder(list[_Kind]).decode
_decode_kind = msgspec.json.Decoder(_Kind).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_messages = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def leave_out_hosted(fields: Fields, dropped: Dropped) -> Fields:
    """The fields without hosted tools and their earlier calls and results; `dropped` receives their names.

    What cannot be read is returned as it is. Raises UnsupportedParameter if `tool_choice` forces the use of a tool that
    is left out.
    """
    try:
        return _without_hosted_history(_without_hosted_tools(fields, dropped), dropped)
    except _UNREADABLE:
        return fields


def allowed_betas(values: list[bytes], dropped: Dropped) -> str:
    """The `anthropic-beta` header to send: of its values, those that change no price. Empty if there are none."""
    names = [name.strip() for name in b",".join(values).decode("latin-1").split(",", MAX_BETAS)[:MAX_BETAS]]
    allowed = [name for name in dict.fromkeys(names) if name in BETAS]
    if any(name and name not in BETAS for name in names):
        dropped.add("anthropic-beta")
    return ",".join(allowed)


def _without_hosted_tools(fields: Fields, dropped: Dropped) -> Fields:
    if "tools" not in fields:
        return fields
    kinds = _decode_kinds(fields["tools"])
    hosted = {index: found[1] for index, kind in enumerate(kinds) if (found := HOSTED_TOOL.fullmatch(kind.type or ""))}
    if not hosted:
        return fields
    kept = [tool for index, tool in enumerate(_decode_list(fields["tools"])) if index not in hosted]
    changed = dict(fields)
    if "tool_choice" in fields:
        choice = _decode_kind(fields["tool_choice"])
        names_hosted = choice.type == "tool" and choice.name in {kinds[index].name for index in hosted}
        if names_hosted or (choice.type == "any" and not kept):
            raise unsupported("tool_choice")
        if not kept:
            del changed["tool_choice"]
    dropped.add(*hosted.values())
    if kept:
        changed["tools"] = _encoded(kept)
    else:
        del changed["tools"]
    return changed


def _without_hosted_history(fields: Fields, dropped: Dropped) -> Fields:
    sent = bytes(fields.get("messages", b""))
    if not any(mark in sent for mark in _HISTORY_MARKS):
        return fields
    messages, found = [], False
    for message in _decode_messages(sent):
        content = message.get("content")
        if content is None or bytes(memoryview(content)[:1]) != b"[":
            messages.append(message)
            continue
        blocks = _decode_list(content)
        kept = [block for block, kind in zip(blocks, _decode_kinds(content), strict=True) if not _is_hosted(kind)]
        if len(kept) == len(blocks):
            messages.append(message)
            continue
        found = True
        if kept:
            messages.append(message | {"content": _encoded(kept)})
    if not found:
        return fields
    dropped.add(HOSTED_CALL)
    return {**fields, "messages": _encoded(messages)}


def _is_hosted(kind: _Kind) -> bool:
    return kind.type == HOSTED_CALL or bool(HOSTED_RESULT.fullmatch(kind.type or ""))


def _encoded(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
