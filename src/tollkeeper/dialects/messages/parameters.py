"""Every parameter of a message, classed, and what of the content bounds its tokens."""

from collections.abc import Iterable, Mapping

import msgspec

from tollkeeper.dialects.input_size import InputSize
from tollkeeper.dialects.messages import blocks
from tollkeeper.dialects.messages.blocks import Base64, Content, Picture, ToolAnswer, Turn
from tollkeeper.dialects.parameters import DROP, NULL, OURS, PASS, PRICE, REFUSE, Known, Only, Rule, refusal
from tollkeeper.errors import InvalidRequest

PARAMETERS: dict[str, Rule] = {
    "model": OURS,
    "max_tokens": OURS,
    "stream": OURS,
    "messages": PRICE,
    "system": PRICE,
    "tools": PRICE,
    "output_config": PRICE,
    "tool_choice": Known({"type": None, "name": None, "disable_parallel_tool_use": None}),
    "thinking": Known({"type": None, "budget_tokens": None, "display": None, "block_binding": None}),
    "stop_sequences": PASS,
    "temperature": PASS,
    "top_p": PASS,
    "top_k": PASS,
    "metadata": PASS,
    "cache_control": Only(({"type": "ephemeral"}, {"type": "ephemeral", "ttl": "5m"})),
    "service_tier": Only(("auto", "standard_only")),
    "inference_geo": Only(("global",)),
    "speed": Only(("standard",), DROP),
    "betas": REFUSE,
    "billing_policy": REFUSE,
    "compaction": REFUSE,
    "container": REFUSE,
    "context_management": REFUSE,
    "diagnostics": REFUSE,
    "fallback_credit_token": REFUSE,
    "fallbacks": REFUSE,
    "mcp_servers": REFUSE,
    "output_format": REFUSE,
    "thread": REFUSE,
    "user_profile_id": REFUSE,
    "workspace_id": REFUSE,
}
"""Thinking is part of the output, its budget inside `max_tokens`. The newest clients do not name `temperature`, `top_p`
and `top_k` any more; older models and clients do. Fast answers, and answers from one country, cost more."""

SAMPLING = frozenset({"temperature", "top_p", "top_k"})
"""What a model may not take, as the catalog says."""


_CONFIG = msgspec.json.Decoder(dict[str, msgspec.Raw])


def with_output_config(fields: Mapping[str, msgspec.Raw]) -> Mapping[str, msgspec.Raw]:
    """The fields, what older clients call `output_format` under its newer name, `output_config.format`.

    Both at once stay as they are, to be refused. Raises InvalidRequest.
    """
    if not _given(fields, "output_format"):
        return fields
    config = blocks.read("output_config", fields["output_config"], _CONFIG) if _given(fields, "output_config") else {}
    if "format" in config:
        return fields
    renamed = {name: value for name, value in fields.items() if name != "output_format"}
    config["format"] = fields["output_format"]
    return renamed | {"output_config": msgspec.Raw(msgspec.json.encode(config))}


def thinks(thinking: bytes) -> bool:
    """Whether the model is asked to think, which it need not show. Raises InvalidRequest."""
    return blocks.read("thinking", thinking, blocks.THINKING).type != "disabled"


def shape_of(fields: Mapping[str, msgspec.Raw]) -> InputSize:
    """What bounds the input. Raises InvalidRequest, and UnsupportedParameter for what nobody can bound or price."""
    if not _given(fields, "messages"):
        raise InvalidRequest("messages is missing.", parameter="messages")
    turns = blocks.read("messages", fields["messages"], blocks.TURNS)
    if not turns:
        raise InvalidRequest("messages is empty.", parameter="messages")
    if _given(fields, "metadata"):
        blocks.read("metadata", fields["metadata"], blocks.METADATA)
    if _given(fields, "output_config"):
        blocks.read("output_config", fields["output_config"], blocks.OUTPUT_CONFIG)
    if _given(fields, "thinking"):
        thinks(fields["thinking"])
    system = _given(fields, "system")
    if system:
        blocks.read("system", fields["system"], blocks.SYSTEM)
    pictures = [picture for turn in turns for picture in _pictures(turn)]
    sizes = [picture.source.size for picture in pictures if isinstance(picture.source, Base64)]
    return InputSize(len(turns) + system, len(pictures), sum(sizes), _has_tools(fields))


def _given(fields: Mapping[str, msgspec.Raw], name: str) -> bool:
    return name in fields and bytes(memoryview(fields[name])[:5]) != NULL


def _pictures(turn: Turn) -> Iterable[Picture]:
    if isinstance(turn.content, str):
        return
    for block in turn.content:
        yield from _pictures_in(block)


def _pictures_in(block: Content) -> Iterable[Picture]:
    if isinstance(block, Picture):
        yield block
    elif isinstance(block, ToolAnswer) and isinstance(block.content, list):
        yield from (part for part in block.content if isinstance(part, Picture))


def _has_tools(fields: Mapping[str, msgspec.Raw]) -> bool:
    if not _given(fields, "tools"):
        return False
    tools = blocks.read("tools", fields["tools"], blocks.TOOLS)
    if any(tool.defer_loading for tool in tools):
        raise refusal("tools.defer_loading")
    return bool(tools)
