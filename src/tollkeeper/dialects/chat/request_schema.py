"""The JSON Schema of a chat completion's request."""

from tollkeeper.dialects.chat.parameters import PARAMETERS
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
    limit_of,
    list_of,
    object_of,
    one_of_values,
    output_limit_of,
    request_schema,
)

_PART = object_of(
    {"type": one_of_values("text", "refusal", "image_url")},
    {"text": STRING, "refusal": STRING, "image_url": object_of({"url": PICTURE_URL}, {"detail": STRING})},
)
_FUNCTION_CALL = object_of({"name": STRING}) | {"properties": {"name": STRING, "arguments": STRING}}
_CUSTOM_CALL = object_of({"name": STRING}) | {"properties": {"name": STRING, "input": STRING}}
_TOOL_CALL = any_of(
    object_of({"id": STRING, "function": _FUNCTION_CALL}, {"custom": _CUSTOM_CALL}),
    object_of({"id": STRING, "custom": _CUSTOM_CALL}, {"function": _FUNCTION_CALL}),
)
_ANY_CALL = object_of({"id": STRING}, {"function": _FUNCTION_CALL, "custom": _CUSTOM_CALL})
"""Of a tool's message, in which calls mean nothing."""
_CONTENT = {
    "content": any_of(STRING, list_of(_PART)),
    "refusal": STRING,
    "tool_calls": list_of(_TOOL_CALL),
}
_MESSAGE = any_of(
    object_of({"role": one_of_values("system", "developer", "user", "assistant")}, _CONTENT | {"tool_call_id": STRING}),
    object_of({"role": one_of_values("tool"), "tool_call_id": STRING}, _CONTENT | {"tool_calls": list_of(_ANY_CALL)}),
)
_FUNCTION_TOOL = object_of({"name": STRING}, {"description": STRING, "parameters": OBJECT, "strict": BOOLEAN})
_GRAMMAR = object_of({"syntax": STRING, "definition": STRING})
_CUSTOM_TOOL = object_of(
    {"name": STRING},
    {
        "description": STRING,
        "format": any_of(
            object_of({"type": one_of_values("text")}, {"grammar": _GRAMMAR}),
            object_of({"type": one_of_values("grammar"), "grammar": _GRAMMAR}),
        ),
    },
)
_TOOL_TYPE = one_of_values("function", "custom")
_TOOL = any_of(
    object_of({"type": _TOOL_TYPE, "function": _FUNCTION_TOOL}, {"custom": _CUSTOM_TOOL}),
    object_of({"type": _TOOL_TYPE, "custom": _CUSTOM_TOOL}, {"function": _FUNCTION_TOOL}),
)
_NAMED = object_of({"name": STRING}) | known_fields({"name": None}, {"name": STRING})
_JSON_SCHEMA = object_of({}, {"name": STRING, "description": STRING, "schema": OBJECT, "strict": BOOLEAN})
STREAM_OPTIONS: Schema = {
    "type": "object",
    "properties": {"include_usage": BOOLEAN, "include_obfuscation": BOOLEAN},
}


def _tool_choice_object(kind: str, chosen: Schema) -> Schema:
    fields = {"type": None, kind: None}
    return {"type": "object", "required": [kind]} | known_fields(fields, {kind: chosen})


def schema(max_tokens: int, max_choices: int) -> Schema:
    """The schema of the request. `max_tokens` is the greatest output limit, in tokens."""
    limit = output_limit_of(max_tokens, "The output limit of each choice, in tokens.")
    read: dict[str, Schema] = {
        "messages": list_of(_MESSAGE, least=1),
        "model": MODEL,
        "max_tokens": limit,
        "max_completion_tokens": limit,
        "n": limit_of(max_choices, "The number of choices."),
        "stream": BOOLEAN,
        "stream_options": STREAM_OPTIONS,
        "tools": list_of(_TOOL),
        "tool_choice": any_of(
            one_of_values("auto", "none", "required"),
            _tool_choice_object("function", _NAMED),
            _tool_choice_object("custom", _NAMED),
            _tool_choice_object("allowed_tools", known_fields({"mode": None, "tools": None})),
        ),
        "parallel_tool_calls": BOOLEAN,
        "response_format": object_of({"type": STRING}, {"json_schema": _JSON_SCHEMA}),
        "reasoning_effort": STRING,
        "temperature": NUMBER,
        "top_p": NUMBER,
        "stop": any_of(STRING, list_of(STRING)),
        "seed": INTEGER,
        "presence_penalty": NUMBER,
        "frequency_penalty": NUMBER,
        "user": STRING,
        "safety_identifier": STRING,
        "prompt_cache_key": STRING,
    }
    return request_schema(
        "ChatCompletionRequest",
        "OpenAI's request, as far as this server reads it. What it does not read is passed on. A provider of another"
        " wire format may lack a parameter; its models then refuse it.",
        PARAMETERS,
        read,
        ("messages",),
    )
