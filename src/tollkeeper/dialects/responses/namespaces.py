"""Namespaces of tools, which other wire formats do not have: there, the name of a tool begins with its namespace."""

from collections.abc import Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import NamedTuple

import msgspec

DEFAULT_NAMESPACE = "functions"
"""The namespace of tools without one."""
SEPARATOR = "__"
MAX_NAME_LENGTH = 64
"""Of a tool's name in the other wire formats."""


class ToolName(NamedTuple):
    """The name of a tool within its namespace."""

    namespace: str
    name: str


NO_NAMESPACES: Mapping[str, ToolName] = MappingProxyType({})


class _Tool(msgspec.Struct):
    name: str | None = None
    tools: "list[_Tool] | None" = None


class _Item(msgspec.Struct):
    tools: list[_Tool] | None = None


_decode_tools = msgspec.json.Decoder(list[_Tool]).decode
_decode_items = msgspec.json.Decoder(list[_Item]).decode


def flat_name(namespace: str | None, name: str) -> str:
    """The one name of a tool. A long one is shortened: its end is then a digest of the whole."""
    if namespace in {None, "", DEFAULT_NAMESPACE}:
        return name
    flat = f"{namespace}{SEPARATOR}{name}"
    if len(flat) <= MAX_NAME_LENGTH:
        return flat
    return f"{flat[: MAX_NAME_LENGTH - 9]}_{sha256(flat.encode()).hexdigest()[:8]}"


def namespaced_tools(fields: Mapping[str, msgspec.Raw]) -> dict[str, ToolName]:
    """The tools in namespaces that a request declares, by their flat name. Fields that cannot be read have none."""
    found: dict[str, ToolName] = {}
    for name in ("tools", "input"):
        raw = bytes(fields.get(name, b""))
        if b'"namespace"' not in raw:
            continue
        try:
            items = [_Item(_decode_tools(raw))] if name == "tools" else _decode_items(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        for space in (space for item in items for space in item.tools or ()):
            for tool in space.tools or ():
                flat = flat_name(space.name, tool.name or "")
                if flat != tool.name:
                    found[flat] = ToolName(space.name or "", tool.name or "")
    return found
