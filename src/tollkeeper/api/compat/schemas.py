"""The JSON Schemas of `/v1/*` in the OpenAPI document.

OpenAI and Anthropic document their formats in full. These schemas name what this server reads of a request, and the
fields of responses that clients rely on; a response may have more.
"""

from typing import Any

from tollkeeper.api.compat import examples
from tollkeeper.api.openapi_parts import JsonSchema, schema_ref
from tollkeeper.dialects.embeddings import MAX_INPUT_ITEMS, PARAMETERS
from tollkeeper.dialects.request_schema import MODEL, STRING, any_of, list_of, nullable, request_schema

REF_TEMPLATE = "#/components/schemas/{name}"


def _response(title: str, description: str, **fields: JsonSchema) -> JsonSchema:
    return {
        "type": "object",
        "title": title,
        "description": description,
        "properties": fields,
        "required": list(fields),
    }


def _items(schema: JsonSchema) -> JsonSchema:
    return list_of(schema, least=1) | {"maxItems": MAX_INPUT_ITEMS}


_OBJECT: JsonSchema = {"type": "object"}
_INTEGER: JsonSchema = {"type": "integer"}
_TOKEN: JsonSchema = {"type": "integer", "minimum": 0}

EMBEDDINGS_REQUEST = request_schema(
    "EmbeddingsRequest",
    "OpenAI's request. The provider may limit the dimensions.",
    PARAMETERS,
    {
        "input": any_of(STRING, _items(STRING), list_of(_TOKEN, least=1), _items(list_of(_TOKEN))),
        "model": MODEL,
        "dimensions": {"type": "integer", "minimum": 1},
        "user": STRING,
    },
    ("input",),
)
EMBEDDINGS = _response(
    "EmbeddingList",
    "One vector for each item of the input, in its order.",
    object={"const": "list"},
    data=list_of(_response("Embedding", "", index=_INTEGER, embedding=any_of(list_of({"type": "number"}), STRING))),
    model=STRING,
    usage=_OBJECT,
)
CHAT_COMPLETION = _response(
    "ChatCompletion", "OpenAI's chat completion.", id=STRING, choices=list_of(_OBJECT), usage=_OBJECT
)
TEXT_COMPLETION = _response(
    "TextCompletion", "OpenAI's text completion, whole or a part.", id=STRING, choices=list_of(_OBJECT)
)
CHAT_CHUNK = _response("ChatCompletionChunk", "A part of a chat completion.", choices=list_of(_OBJECT))
RESPONSE = _response("Response", "OpenAI's response.", id=STRING, status=STRING, output=list_of(_OBJECT))
TYPED_EVENT = _response("TypedEvent", "An event of a stream; `type` is also the name of the event.", type=STRING)
MESSAGE = _response(
    "Message",
    "Anthropic's message.",
    id=STRING,
    type={"const": "message"},
    role={"const": "assistant"},
    content=list_of(_OBJECT),
    stop_reason=nullable(STRING),
    usage=_OBJECT,
)
INPUT_TOKENS = _response(
    "InputTokens", "The tokens of the input.", object={"const": "response.input_tokens"}, input_tokens=_TOKEN
)
TOKEN_COUNT = _response("TokenCount", "The tokens of the input.", input_tokens=_TOKEN)
OPENAI_ERROR = _response(
    "OpenAIError",
    "An error in OpenAI's format. `X-Error-Code` is this server's own code.",
    error=_response(
        "OpenAIErrorObject", "", message=STRING, type=STRING, param=nullable(STRING), code=nullable(STRING)
    ),
)
ANTHROPIC_ERROR = _response(
    "AnthropicError",
    "An error in Anthropic's format. `X-Error-Code` is this server's own code.",
    type={"const": "error"},
    error=_response("AnthropicErrorObject", "", type=STRING, message=STRING),
)
_OPENAI_MODEL = _response("OpenAIModel", "", id=STRING, object={"const": "model"}, created=_INTEGER, owned_by=STRING)
_ANTHROPIC_MODEL = _response(
    "AnthropicModel", "", type={"const": "model"}, id=STRING, display_name=STRING, created_at=STRING
)
MODEL_SCHEMAS = {schema["title"]: schema for schema in (_OPENAI_MODEL, _ANTHROPIC_MODEL)}


def model_responses(*, is_list: bool) -> dict[int | str, dict[str, Any]]:
    """The documented response with one model or a list of them: OpenAI's, or Anthropic's if its version was sent."""
    openai, anthropic = schema_ref("OpenAIModel"), schema_ref("AnthropicModel")
    shown = {"OpenAI": examples.OPENAI_MODEL, "Anthropic": examples.ANTHROPIC_MODEL}
    if is_list:
        openai = _response("OpenAIModelList", "", object={"const": "list"}, data=list_of(openai))
        ids = {"first_id": STRING, "last_id": STRING}
        anthropic = _response("AnthropicModelList", "", data=list_of(anthropic), has_more={"const": False}, **ids)
        first = examples.ANTHROPIC_MODEL["id"]
        shown = {
            "OpenAI": {"object": "list", "data": [examples.OPENAI_MODEL]},
            "Anthropic": {
                "data": [examples.ANTHROPIC_MODEL],
                "has_more": False,
                "first_id": first,
                "last_id": first,
            },
        }
    named = {name: {"value": value} for name, value in shown.items()}
    return {200: {"content": {"application/json": {"schema": any_of(openai, anthropic), "examples": named}}}}
