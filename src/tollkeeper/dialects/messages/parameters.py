"""The parameters of a message request, each with its rule, and the size of the input."""

from collections.abc import Mapping, Sequence

import msgspec

from tollkeeper.dialects.input_size import InputSize
from tollkeeper.dialects.messages import content
from tollkeeper.dialects.messages.content import (
    Base64Source,
    CacheControl,
    ContentBlock,
    ContentSource,
    DocumentBlock,
    ImageBlock,
    PdfSource,
    RedactedThinkingBlock,
    SearchResultBlock,
    TextBlock,
    ThinkingBlock,
    ToolDefinition,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
    decode_field,
)
from tollkeeper.dialects.messages.documents import pdf_pages
from tollkeeper.dialects.parameters import DROP, NULL, OMIT, OURS, PASS, PRICE, REFUSE, KnownFields, Only, Rule
from tollkeeper.errors import InvalidRequest

PARAMETERS: dict[str, Rule] = {
    "model": OURS,
    "max_tokens": OURS,
    "stream": OURS,
    "messages": PRICE,
    "system": PRICE,
    "tools": PRICE,
    "output_config": PRICE,
    "tool_choice": KnownFields({"type": None, "name": None, "disable_parallel_tool_use": None}),
    "thinking": KnownFields({"type": None, "budget_tokens": None, "display": None, "block_binding": None}),
    "stop_sequences": PASS,
    "temperature": PASS,
    "top_p": PASS,
    "top_k": PASS,
    "metadata": PASS,
    "cache_control": PRICE,
    "service_tier": Only(("auto", "standard_only")),
    "inference_geo": Only(("global",)),
    "speed": Only(("standard",), DROP),
    "betas": REFUSE,
    "billing_policy": REFUSE,
    "compaction": REFUSE,
    "container": REFUSE,
    "context_management": PASS,
    "diagnostics": OMIT,
    "fallback_credit_token": REFUSE,
    "fallbacks": REFUSE,
    "mcp_servers": REFUSE,
    "output_format": REFUSE,
    "thread": REFUSE,
    "user_profile_id": REFUSE,
    "workspace_id": REFUSE,
}
"""Thinking is part of the output: its budget lies within `max_tokens`. The newest SDKs lack `temperature`, `top_p` and
`top_k`; older clients send them, and older models accept them. Other values of `speed`, `inference_geo` cost more.
Edits in `context_management` may only remove input; `input_size_of` refuses others."""

UNTRANSLATED = ("context_management",)
"""The parameters that only this wire format can express, and that an answer does not need."""

SAMPLING = frozenset({"temperature", "top_p", "top_k"})
"""The sampling parameters. The catalog can restrict which of them a model takes."""


_decode_raw_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_decode_raw_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


def move_output_format(fields: Mapping[str, msgspec.Raw]) -> Mapping[str, msgspec.Raw]:
    """The fields, with `output_format`, which older clients send, moved to `output_config.format`.

    If both are given, the fields are returned unchanged; filter_parameters refuses them. Raises InvalidRequest.
    """
    if not _is_given(fields, "output_format"):
        return fields
    config: dict[str, msgspec.Raw] = {}
    if _is_given(fields, "output_config"):
        config = decode_field("output_config", fields["output_config"], _decode_raw_fields)
    if "format" in config:
        return fields
    config["format"] = fields["output_format"]
    others = {name: value for name, value in fields.items() if name != "output_format"}
    return others | {"output_config": msgspec.Raw(msgspec.json.encode(config))}


def enables_thinking(thinking: bytes) -> bool:
    """Whether the `thinking` parameter enables thinking, which the answer need not show. Raises InvalidRequest."""
    return decode_field("thinking", thinking, content.THINKING).type != "disabled"


def input_size_of(fields: Mapping[str, msgspec.Raw]) -> InputSize:
    """The counts that bound the input's tokens.

    Raises UnsupportedParameter for content without a bound or a known price, InvalidRequest for malformed content.
    """
    if not _is_given(fields, "messages"):
        raise InvalidRequest("messages is missing.", parameter="messages")
    messages = decode_field("messages", fields["messages"], content.MESSAGES)
    if not messages:
        raise InvalidRequest("messages is empty.", parameter="messages")
    if _is_given(fields, "metadata"):
        decode_field("metadata", fields["metadata"], content.METADATA)
    if _is_given(fields, "output_config"):
        decode_field("output_config", fields["output_config"], content.OUTPUT_CONFIG)
    if _is_given(fields, "thinking"):
        enables_thinking(fields["thinking"])
    if _is_given(fields, "context_management"):
        decode_field("context_management", fields["context_management"], content.CONTEXT_MANAGEMENT)
    count = _Count()
    if has_system := _is_given(fields, "system"):
        count.add(decode_field("system", fields["system"], content.SYSTEM))
    for message in messages:
        count.add(message.content)
    if _is_given(fields, "cache_control"):
        count.add_cache(decode_field("cache_control", fields["cache_control"], content.CACHE_CONTROL))
    tools = decode_field("tools", fields["tools"], content.TOOLS) if _is_given(fields, "tools") else []
    for tool in tools:
        count.add_cache(tool.cache_control)
    return InputSize(
        len(messages) + has_system,
        count.images,
        count.image_bytes,
        bool(tools),
        _repeated_bytes(count.references, tools, fields) if count.references else 0,
        count.pdf_pages,
        unbounded=count.unbounded,
        hour_cache=count.hour_cache,
    )


def _is_given(fields: Mapping[str, msgspec.Raw], name: str) -> bool:
    return name in fields and bytes(memoryview(fields[name])[:5]) != NULL


class _Count:
    """Counts what is in content, also in documents and in the results of tools."""

    def __init__(self) -> None:
        self.images = self.image_bytes = self.pdf_pages = 0
        self.references: list[str] = []
        """The names of the tools that the content refers to."""
        self.unbounded = self.hour_cache = False

    def add(self, blocks: str | Sequence[ContentBlock | ToolReferenceBlock] | None) -> None:
        if blocks is None or isinstance(blocks, str):
            return
        for block in blocks:
            match block:
                case TextBlock():
                    pass
                case ThinkingBlock() | RedactedThinkingBlock():
                    continue
                case ImageBlock():
                    self._add_image(block)
                case DocumentBlock():
                    self._add_document(block)
                case ToolReferenceBlock():
                    self.references.append(block.tool_name)
                case ToolResultBlock():
                    self.add(block.content)
                case SearchResultBlock():
                    self.add(block.content)
                case ToolUseBlock():
                    pass
            self.add_cache(block.cache_control)

    def add_cache(self, cache_control: CacheControl | None) -> None:
        if cache_control is not None and cache_control.ttl == "1h":
            self.hour_cache = True

    def _add_image(self, image: ImageBlock) -> None:
        self.images += 1
        if isinstance(image.source, Base64Source):
            self.image_bytes += image.source.size_bytes

    def _add_document(self, document: DocumentBlock) -> None:
        """The bytes of a PDF bound nothing: its pages are compressed. Citations split a text into numbered pieces."""
        match document.source:
            case PdfSource():
                self.pdf_pages += pdf_pages(document.source.data)
                self.unbounded = True
            case ContentSource():
                self.add(document.source.content)
        if document.citations is not None and document.citations.enabled:
            self.unbounded = True


def _repeated_bytes(references: list[str], tools: list[ToolDefinition], fields: Mapping[str, msgspec.Raw]) -> int:
    """The bytes of the definitions that the references insert, each as often as it is referred to."""
    if not tools:
        return 0
    definitions = zip(tools, _decode_raw_list(fields["tools"]), strict=True)
    sizes = {tool.name: len(memoryview(definition)) for tool, definition in definitions}
    return sum(sizes.get(name, 0) for name in references)
