"""The types of a request's content: messages, content blocks, tools. What has no type here is refused.

The data of an image and the input of a tool call are not decoded: only their sizes are needed.
"""

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from tollkeeper.dialects.images import NOT_PUBLIC, names_public_host
from tollkeeper.dialects.parameters import unsupported
from tollkeeper.errors import InputError, InvalidRequest

T = TypeVar("T")

_PATH = re.compile(r" - at `\$(.*)`$")
"""The path to the error in the value, at the end of msgspec's messages."""
_UNSUPPORTED = ("Invalid value ", "Invalid enum value ", "Object contains unknown field ", "Expected `str` matching ")
"""How msgspec's messages begin for a valid JSON value that has no type here."""


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """An object without unknown fields: a new field may cost something, so it is refused until it has a type here."""


class Block(Strict, tag_field="type"):
    """An object whose `type` is its tag."""


class CacheControl(Strict):
    """A cache lifetime of 5 minutes, the default, or of an hour, which has another price. The scope has none."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] = "5m"
    scope: str | None = None


class TextBlock(Block, tag="text"):
    text: str
    cache_control: CacheControl | None = None
    citations: Any = None


class Base64Source(Block, tag="base64"):
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: msgspec.Raw

    def __post_init__(self) -> None:
        if bytes(memoryview(self.data)[:1]) != b'"':
            raise ValueError

    @property
    def size_bytes(self) -> int:
        """The size of the data, in bytes as sent (base64)."""
        return len(memoryview(self.data)) - 2


class UrlSource(Block, tag="url"):
    """An `https:` URL of a public host. Others could point into the provider's own network."""

    url: Annotated[str, msgspec.Meta(pattern="^https://")]

    def __post_init__(self) -> None:
        if not names_public_host(self.url):
            raise ValueError(NOT_PUBLIC)


class ImageBlock(Block, tag="image"):
    source: Base64Source | UrlSource
    cache_control: CacheControl | None = None
    transformations: Any = None


class PdfSource(Block, tag="base64"):
    media_type: Literal["application/pdf"]
    data: msgspec.Raw

    def __post_init__(self) -> None:
        if bytes(memoryview(self.data)[:1]) != b'"':
            raise ValueError


class PlainTextSource(Block, tag="text"):
    media_type: Literal["text/plain"]
    data: str


class ContentSource(Block, tag="content"):
    content: str | list[TextBlock | ImageBlock]


class Citations(Strict):
    enabled: bool | None = None


class DocumentBlock(Block, tag="document"):
    """A document in the request itself. One behind a URL has no bound, and one of the provider's files is stored."""

    source: PdfSource | PlainTextSource | ContentSource
    title: str | None = None
    context: str | None = None
    cache_control: CacheControl | None = None
    citations: Citations | None = None


class SearchResultBlock(Block, tag="search_result"):
    content: list[TextBlock]
    source: str
    title: str
    cache_control: CacheControl | None = None
    citations: Any = None


class ThinkingBlock(Block, tag="thinking"):
    thinking: str
    signature: str = ""


class RedactedThinkingBlock(Block, tag="redacted_thinking"):
    data: str


class DirectCaller(Block, tag="direct"):
    """The model called the tool directly, not from code that it ran."""


class ToolUseBlock(Block, tag="tool_use"):
    id: str
    name: str
    input: msgspec.Raw
    caller: DirectCaller | None = None
    cache_control: CacheControl | None = None
    toolset_name: None = None

    def __post_init__(self) -> None:
        if bytes(memoryview(self.input)[:1]) != b"{":
            raise ValueError


class ToolReferenceBlock(Block, tag="tool_reference"):
    """The provider inserts the definition of this tool, whose loading was deferred."""

    tool_name: str
    cache_control: CacheControl | None = None


class ToolResultBlock(Block, tag="tool_result"):
    tool_use_id: str
    content: str | list[TextBlock | ImageBlock | SearchResultBlock | DocumentBlock | ToolReferenceBlock] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None
    toolset_name: None = None


ContentBlock = (
    TextBlock
    | ImageBlock
    | DocumentBlock
    | SearchResultBlock
    | ThinkingBlock
    | RedactedThinkingBlock
    | ToolUseBlock
    | ToolResultBlock
)


class InputMessage(Strict):
    role: Literal["user", "assistant", "system"]
    content: str | list[ContentBlock]


class ToolDefinition(Strict):
    """A tool that the caller runs. Tools that the provider runs have other types, and no bound."""

    name: str
    input_schema: dict[str, Any] | None = None
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None
    allowed_callers: list[Literal["direct"]] | None = None
    defer_loading: bool | None = None
    eager_input_streaming: bool | None = None
    input_examples: Any = None

    def __post_init__(self) -> None:
        if self.input_schema is None and not self.defer_loading:
            raise ValueError


class Metadata(Strict):
    user_id: str | None = None


class ThinkingConfig(msgspec.Struct):
    """Whether the model thinks. The budget is not read: thinking is part of the output, and bounded by its limit."""

    type: str


class ContextEdit(Strict):
    """An edit that only removes input. Others write tokens without a limit, and are refused."""

    type: Annotated[str, msgspec.Meta(pattern="^clear_(thinking|tool_uses)_[0-9]{8}$")]
    keep: Any = None
    trigger: Any = None
    clear_at_least: Any = None
    clear_tool_inputs: Any = None
    exclude_tools: Any = None


class ContextManagement(Strict):
    edits: list[ContextEdit] | None = None


class OutputFormat(Strict):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Strict):
    effort: str | None = None
    format: OutputFormat | None = None


MESSAGES = msgspec.json.Decoder(list[InputMessage])
SYSTEM = msgspec.json.Decoder(str | list[TextBlock])
TOOLS = msgspec.json.Decoder(list[ToolDefinition])
METADATA = msgspec.json.Decoder(Metadata)
THINKING = msgspec.json.Decoder(ThinkingConfig)
OUTPUT_CONFIG = msgspec.json.Decoder(OutputConfig)
CACHE_CONTROL = msgspec.json.Decoder(CacheControl)
CONTEXT_MANAGEMENT = msgspec.json.Decoder(ContextManagement)


def decode_field(name: str, value: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[T]) -> T:
    """The decoded value of a parameter. Raises UnsupportedParameter for what has no type here, else InvalidRequest."""
    try:
        return decoder.decode(value)
    except msgspec.ValidationError as error:
        raise _error(name, str(error)) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest(f"{name} cannot be read.", parameter=name) from None


def _error(name: str, message: str) -> InputError:
    found = _PATH.search(message)
    path = name + (found[1] if found else "")
    if message.startswith(_UNSUPPORTED):
        return unsupported(path)
    if message.startswith(NOT_PUBLIC):
        return InvalidRequest(f"{path}.url: {NOT_PUBLIC}.", parameter=f"{path}.url")
    return InvalidRequest(f"{path} is malformed.", parameter=path)
