"""What a request may be made of: turns, blocks of content, tools. Whatever is not here is refused.

A picture's data and a tool's input are left as they came: nobody has to look into them to know their size.
"""

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from tollkeeper.dialects.parameters import refusal
from tollkeeper.errors import InputError, InvalidRequest

T = TypeVar("T")

_PLACE = re.compile(r" - at `\$(.*)`$")
_NOT_HERE = ("Invalid value ", "Invalid enum value ", "Object contains unknown field ", "Expected `str` matching ")


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """A new field may cost something: it is refused until it is known."""


class Block(Strict, tag_field="type"):
    """Told apart by its `type`."""


class CacheControl(Strict):
    """Five minutes, which is the default; an hour has another price."""

    type: Literal["ephemeral"]
    ttl: Literal["5m"] = "5m"


class Text(Block, tag="text"):
    text: str
    cache_control: CacheControl | None = None
    citations: Any = None


class Base64(Block, tag="base64"):
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: msgspec.Raw

    def __post_init__(self) -> None:
        if bytes(memoryview(self.data)[:1]) != b'"':
            raise ValueError

    @property
    def size(self) -> int:
        """Bytes of the data, as it was sent."""
        return len(memoryview(self.data)) - 2


class Url(Block, tag="url"):
    """Other addresses could be of the provider's own network."""

    url: Annotated[str, msgspec.Meta(pattern="^https://")]


class Picture(Block, tag="image"):
    source: Base64 | Url
    cache_control: CacheControl | None = None
    transformations: Any = None


class SearchResult(Block, tag="search_result"):
    content: list[Text]
    source: str
    title: str
    cache_control: CacheControl | None = None
    citations: Any = None


class Thinking(Block, tag="thinking"):
    thinking: str
    signature: str = ""


class RedactedThinking(Block, tag="redacted_thinking"):
    data: str


class Direct(Block, tag="direct"):
    """The model itself called the tool, not code that it ran."""


class ToolUse(Block, tag="tool_use"):
    id: str
    name: str
    input: msgspec.Raw
    caller: Direct | None = None
    cache_control: CacheControl | None = None
    toolset_name: None = None

    def __post_init__(self) -> None:
        if bytes(memoryview(self.input)[:1]) != b"{":
            raise ValueError


class ToolAnswer(Block, tag="tool_result"):
    tool_use_id: str
    content: str | list[Text | Picture | SearchResult] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None
    toolset_name: None = None


Content = Text | Picture | SearchResult | Thinking | RedactedThinking | ToolUse | ToolAnswer


class Turn(Strict):
    role: Literal["user", "assistant", "system"]
    content: str | list[Content]


class ToolDefinition(Strict):
    """A tool of the caller's own. Those that the provider runs have a type of their own, and no bound."""

    name: str
    input_schema: dict[str, Any]
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None
    allowed_callers: list[Literal["direct"]] | None = None
    defer_loading: bool | None = None
    eager_input_streaming: bool | None = None
    input_examples: Any = None


class Metadata(Strict):
    user_id: str | None = None


class Thinks(msgspec.Struct):
    """How much is thought is a part of the output, so that only the kind matters."""

    type: str


class Format(Strict):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Strict):
    effort: str | None = None
    format: Format | None = None


TURNS = msgspec.json.Decoder(list[Turn])
SYSTEM = msgspec.json.Decoder(str | list[Text])
TOOLS = msgspec.json.Decoder(list[ToolDefinition])
METADATA = msgspec.json.Decoder(Metadata)
THINKING = msgspec.json.Decoder(Thinks)
OUTPUT_CONFIG = msgspec.json.Decoder(OutputConfig)


def read(name: str, value: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[T]) -> T:
    """A field of the request. Raises UnsupportedParameter for what is not taken here, else InvalidRequest."""
    try:
        return decoder.decode(value)
    except msgspec.ValidationError as error:
        raise _complaint(name, str(error)) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest(f"{name} cannot be read.", parameter=name) from None


def _complaint(name: str, said: str) -> InputError:
    found = _PLACE.search(said)
    place = name + (found[1] if found else "")
    if said.startswith(_NOT_HERE):
        return refusal(place)
    return InvalidRequest(f"{place} is not as this wire has it.", parameter=place)
