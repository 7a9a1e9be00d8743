"""The JSON Schema of a request for a response."""

from tollkeeper.dialects.hosted_tools import HOSTED_PATTERN
from tollkeeper.dialects.request_schema import (
    BOOLEAN,
    INTEGER,
    MODEL,
    NUMBER,
    OBJECT,
    PICTURE_URL,
    STRING,
    Schema,
    any_of,
    known_fields,
    list_of,
    nullable,
    object_of,
    one_of_values,
    output_limit_of,
    request_schema,
)
from tollkeeper.dialects.responses.content import CACHE_TTLS, IMAGE_DETAILS, INCLUDES, TOOL_TYPES
from tollkeeper.dialects.responses.parameters import PARAMETERS

_IMAGE_PART = object_of(
    {"type": one_of_values("input_image"), "image_url": PICTURE_URL},
    {"detail": one_of_values(*sorted(IMAGE_DETAILS - {None}, key=str))},
)
_OUTPUT_TEXT_PART = object_of({"type": one_of_values("input_text", "output_text"), "text": STRING})
_MESSAGE_PART = any_of(
    object_of({"type": one_of_values("input_text", "output_text"), "text": STRING}),
    object_of({"type": one_of_values("refusal"), "refusal": STRING}),
    _IMAGE_PART,
)
_AGENT_PART = object_of({"type": one_of_values("input_text", "output_text", "encrypted_content")}, {"text": STRING})
_TOOL_OUTPUT = any_of(STRING, list_of(any_of(_OUTPUT_TEXT_PART, _IMAGE_PART)))
_ROLE = one_of_values("system", "developer", "user", "assistant")
_TOOL_TYPE = one_of_values(*sorted(TOOL_TYPES))
_TOOL = object_of(
    {"type": _TOOL_TYPE, "name": STRING},
    {
        "description": STRING,
        "parameters": OBJECT,
        "strict": BOOLEAN,
        "format": any_of(
            object_of({"type": one_of_values("text")}, {"syntax": STRING, "definition": STRING}),
            object_of({"type": one_of_values("grammar"), "syntax": STRING, "definition": STRING}),
        ),
    },
)
_NAMESPACE = object_of(
    {"type": one_of_values("namespace")}, {"name": STRING, "tools": list_of(_TOOL), "description": STRING}
)
_TOOL_SEARCH = object_of(
    {"type": one_of_values("tool_search"), "execution": one_of_values("client")},
    {"description": STRING, "parameters": OBJECT},
)
_TOOLS = list_of(any_of(_TOOL, _NAMESPACE, _TOOL_SEARCH))
_HOSTED_TOOLS = any_of(
    object_of({"type": {"type": "string", "pattern": HOSTED_PATTERN, "description": "Left out of the request."}}),
    object_of({"type": one_of_values("tool_search")}, {"execution": one_of_values("server")}),
)
_NO_PARTS = {"type": "array", "maxItems": 0}
_ITEM_FIELDS: dict[str, Schema] = {
    "role": STRING,
    "content": any_of(STRING, _NO_PARTS),
    "call_id": STRING,
    "name": STRING,
    "namespace": STRING,
    "arguments": any_of(STRING, OBJECT),
    "input": STRING,
    "output": any_of(STRING, _NO_PARTS),
    "tools": _TOOLS,
}
"""The fields of an item that are read, whether or not they mean something for its type."""


def _item(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    fields = _ITEM_FIELDS | (optional or {})
    return object_of(required, {name: field for name, field in fields.items() if name not in required})


def _item_of(kind: str, required: dict[str, Schema] | None = None, optional: dict[str, Schema] | None = None) -> Schema:
    return _item({"type": one_of_values(kind)} | (required or {}), optional)


_CALL: dict[str, Schema] = {"call_id": STRING, "name": STRING}
_RESULT: dict[str, Schema] = {"call_id": STRING, "output": _TOOL_OUTPUT}
_UNREAD_TEXT_PART = object_of({"type": one_of_values("input_text", "output_text")}, {"text": STRING})
_RESULT_CONTENT: dict[str, Schema] = {"content": any_of(STRING, list_of(any_of(_UNREAD_TEXT_PART, _IMAGE_PART)))}
"""Of a result, in which content means nothing."""
_REASONING_TEXTS = list_of(object_of({"type": one_of_values("reasoning_text")}, {"text": STRING}))
_ITEM = any_of(
    _item({"role": _ROLE, "content": any_of(STRING, list_of(_MESSAGE_PART))}, {"type": one_of_values("message")}),
    _item_of("function_call", _CALL | {"arguments": STRING}),
    _item_of("function_call_output", _RESULT, _RESULT_CONTENT),
    _item_of("custom_tool_call", _CALL | {"input": STRING}),
    _item_of("custom_tool_call_output", _RESULT, _RESULT_CONTENT),
    _item_of("reasoning", None, {"content": any_of(STRING, _REASONING_TEXTS)}),
    _item_of("agent_message", None, {"content": any_of(STRING, list_of(_AGENT_PART))}),
    *map(_item_of, ("compaction", "web_search_call", "tool_search_call", "tool_search_output", "additional_tools")),
)
_TOOL_CHOICE_FIELDS = {"type": None, "name": None, "mode": None, "tools": None}
_TOOL_CHOICE = any_of(
    one_of_values("auto", "none", "required"),
    {"type": "object", "required": ["type", "name"]}
    | known_fields(_TOOL_CHOICE_FIELDS, {"type": _TOOL_TYPE, "name": STRING, "tools": list_of(OBJECT)}),
    {"type": "object", "required": ["type", "tools"]}
    | known_fields(
        _TOOL_CHOICE_FIELDS,
        {
            "type": one_of_values("allowed_tools"),
            "name": nullable(STRING),
            "tools": list_of(object_of({"type": _TOOL_TYPE})),
        },
    ),
)
_FORMAT_FIELDS = {"type": None, "name": None, "description": None, "schema": None, "strict": None}
_FORMAT_TEXTS = {"name": nullable(STRING), "description": nullable(STRING), "strict": nullable(BOOLEAN)}
_FORMAT = any_of(
    {"type": "object", "required": ["type"]}
    | known_fields(
        _FORMAT_FIELDS, _FORMAT_TEXTS | {"type": one_of_values("text", "json_object"), "schema": nullable(OBJECT)}
    ),
    {"type": "object", "required": ["type", "schema"]}
    | known_fields(_FORMAT_FIELDS, _FORMAT_TEXTS | {"type": one_of_values("json_schema"), "schema": OBJECT}),
)
_TEXT = {"type": "object"} | known_fields(
    {"format": None, "verbosity": None}, {"format": nullable(_FORMAT), "verbosity": nullable(STRING)}
)
_REASONING = {"type": "object"} | known_fields(
    {"context": None, "effort": None, "generate_summary": None, "mode": None, "summary": None},
    {"effort": nullable(STRING), "mode": one_of_values("standard", None)},
)
_CACHE_OPTIONS: Schema = {
    "type": "object",
    "properties": {
        "mode": nullable(STRING),
        "ttl": one_of_values(*sorted(CACHE_TTLS - {None}, key=str), None),
        "prewarm": one_of_values(False, None),
    },
    "additionalProperties": False,
}


def schema(max_tokens: int) -> Schema:
    """The schema of the request. `max_tokens` is the greatest output limit, in tokens."""
    read: dict[str, Schema] = {
        "input": any_of(STRING, list_of(_ITEM)),
        "model": MODEL,
        "instructions": STRING,
        "max_output_tokens": output_limit_of(max_tokens, "The output limit, in tokens."),
        "stream": BOOLEAN,
        "temperature": NUMBER,
        "top_p": NUMBER,
        "top_logprobs": INTEGER,
        "tools": list_of(any_of(_TOOL, _NAMESPACE, _TOOL_SEARCH, _HOSTED_TOOLS)),
        "tool_choice": _TOOL_CHOICE,
        "parallel_tool_calls": BOOLEAN,
        "reasoning": _REASONING,
        "text": _TEXT,
        "include": list_of(one_of_values(*sorted(INCLUDES))),
        "prompt_cache_options": _CACHE_OPTIONS,
        "user": STRING,
        "safety_identifier": STRING,
        "prompt_cache_key": STRING,
    }
    return request_schema(
        "ResponsesRequest",
        "OpenAI's request, as far as this server reads it. What it does not read is passed on. A provider of another"
        " wire format may lack a parameter; its models then refuse it.",
        PARAMETERS,
        read,
        ("input",),
    )
