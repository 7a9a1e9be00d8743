"""The JSON Schema of a request for a message."""

import msgspec

from tollkeeper.dialects.messages import content
from tollkeeper.dialects.messages.parameters import PARAMETERS
from tollkeeper.dialects.request_schema import (
    BOOLEAN,
    HTTPS_PATTERN,
    MODEL,
    NUMBER,
    OBJECT,
    STRING,
    Schema,
    any_of,
    known_fields,
    limit_of,
    list_of,
    nullable,
    one_of_values,
    request_schema,
)

_CONTENT_TYPES = (
    content.InputMessage,
    content.TextBlock,
    content.ToolDefinition,
    content.Metadata,
    content.OutputConfig,
    content.ContextManagement,
)
_TEXT_ONLY = "TextOnlyBlock"
_THINKING = {"type": "object", "required": ["type"]} | known_fields(
    {"type": None, "budget_tokens": None, "display": None, "block_binding": None}, {"type": STRING}
)
_TOOL_CHOICE = {"type": "object", "required": ["type"]} | known_fields(
    {"type": None, "name": None, "disable_parallel_tool_use": None},
    {
        "type": one_of_values("auto", "any", "tool", "none"),
        "name": STRING,
        "disable_parallel_tool_use": nullable(BOOLEAN),
    },
)


def components(ref_template: str) -> dict[str, Schema]:
    """The schemas of the content of requests, by name. `ref_template` contains `{name}`."""
    _, schemas = msgspec.json.schema_components(_CONTENT_TYPES, ref_template=ref_template)
    # What their types leave open, because it is checked elsewhere or only measured.
    schemas["Base64Source"]["properties"]["data"] = STRING
    schemas["UrlSource"]["properties"]["url"] = {"type": "string", "pattern": HTTPS_PATTERN}
    schemas["ToolUseBlock"]["properties"]["input"] = OBJECT
    schemas["PdfSource"]["properties"]["data"] = STRING
    schemas["ToolDefinition"]["required"] = ["name", "input_schema"]
    schemas["ToolDefinition"]["properties"]["input_schema"] = OBJECT
    # Where a list has one type of block, the type need not be sent.
    schemas[_TEXT_ONLY] = schemas["TextBlock"] | {"title": _TEXT_ONLY, "required": ["text"]}
    schemas["SearchResultBlock"]["properties"]["content"]["items"] = {"$ref": ref_template.format(name=_TEXT_ONLY)}
    schemas["DirectCaller"]["required"] = []
    return schemas


def schema(title: str, ref_template: str, max_tokens: int, *, limit_required: bool) -> Schema:
    """The schema of the request. `max_tokens` is the greatest output limit, in tokens."""

    def ref(kind: type) -> Schema:
        return {"$ref": ref_template.format(name=kind.__name__)}

    read: dict[str, Schema] = {
        "model": MODEL,
        "max_tokens": limit_of(max_tokens, "The output limit, in tokens."),
        "stream": BOOLEAN,
        "messages": list_of(ref(content.InputMessage), least=1),
        "system": any_of(STRING, list_of({"$ref": ref_template.format(name=_TEXT_ONLY)})),
        "tools": list_of(ref(content.ToolDefinition)),
        "output_config": ref(content.OutputConfig),
        "tool_choice": _TOOL_CHOICE,
        "thinking": _THINKING,
        "stop_sequences": list_of(STRING),
        "temperature": NUMBER,
        "top_p": NUMBER,
        "metadata": ref(content.Metadata),
        "cache_control": ref(content.CacheControl),
        "context_management": ref(content.ContextManagement),
    }
    return request_schema(
        title,
        "Anthropic's request, as far as this server reads it. A provider of another wire format may lack a parameter;"
        " its models then refuse it.",
        PARAMETERS,
        read,
        ("messages", "max_tokens") if limit_required else ("messages",),
    )
