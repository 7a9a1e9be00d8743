"""Example requests and responses of `/v1/*`, for the OpenAPI document. Each example request works as it is."""

from typing import Any

Example = dict[str, Any]

_QUESTION = "Why is the sky blue?"
_ANSWER = "Air scatters blue light the most."
_IN_ONE_SENTENCE = "Answer in one sentence."
_CREATED = 1_800_000_000
_SCHEMA: Example = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
_USER: Example = {"role": "user", "content": _QUESTION}
_ASKS_WEATHER: Example = {"role": "user", "content": "What is the weather in Oslo?"}
_WEATHER: Example = {"name": "get_weather", "description": "The weather in a city.", "parameters": _SCHEMA}
_CHAT_USAGE: Example = {"prompt_tokens": 13, "completion_tokens": 8, "total_tokens": 21}

CHAT_REQUESTS: dict[str, Example] = {
    "Whole": {"messages": [_USER], "max_tokens": 200},
    "Streamed": {
        "messages": [{"role": "system", "content": _IN_ONE_SENTENCE}, _USER],
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    "Tool": {
        "messages": [_ASKS_WEATHER],
        "tools": [{"type": "function", "function": _WEATHER}],
        "tool_choice": "required",
    },
    "JSON by a schema": {
        "messages": [_ASKS_WEATHER],
        "response_format": {"type": "json_schema", "json_schema": {"name": "place", "schema": _SCHEMA}},
    },
}
CHAT_RESPONSE: Example = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": _CREATED,
    "model": "gpt-4o-mini",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": _ANSWER, "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": _CHAT_USAGE,
}
COMPLETION_REQUESTS: dict[str, Example] = {
    "Whole": {"prompt": "The sky is blue because", "max_tokens": 200},
    "Streamed": {"prompt": ["The sky is blue because"], "stream": True, "stream_options": {"include_usage": True}},
}
COMPLETION_RESPONSE: Example = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": _CREATED,
    "model": "gpt-4o-mini",
    "choices": [{"text": _ANSWER, "index": 0, "logprobs": None, "finish_reason": "stop"}],
    "usage": _CHAT_USAGE,
}
RESPONSES_REQUESTS: dict[str, Example] = {
    "Whole": {"input": _QUESTION, "max_output_tokens": 200},
    "Streamed": {"instructions": _IN_ONE_SENTENCE, "input": [_USER], "stream": True},
    "Tool": {
        "input": [_ASKS_WEATHER],
        "tools": [{"type": "function", **_WEATHER}],
        "tool_choice": {"type": "function", "name": "get_weather"},
    },
    "JSON by a schema": {
        "input": [_ASKS_WEATHER],
        "text": {"format": {"type": "json_schema", "name": "place", "schema": _SCHEMA}},
    },
}
RESPONSES_RESPONSE: Example = {
    "id": "resp_1",
    "object": "response",
    "created_at": _CREATED,
    "status": "completed",
    "model": "gpt-4o-mini",
    "output": [
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": _ANSWER, "annotations": []}],
        }
    ],
    "usage": {"input_tokens": 13, "output_tokens": 8, "total_tokens": 21},
}
INPUT_TOKENS_REQUESTS: dict[str, Example] = {
    "One text": {"input": _QUESTION},
    "With instructions": {"instructions": _IN_ONE_SENTENCE, "input": [_USER]},
}
INPUT_TOKENS_RESPONSE: Example = {"object": "response.input_tokens", "input_tokens": 13}
EMBEDDINGS_REQUESTS: dict[str, Example] = {"Two texts": {"input": ["The sky is blue.", "The sun is yellow."]}}
EMBEDDINGS_RESPONSE: Example = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.6, -0.8]}],
    "model": "text-embedding-3-small",
    "usage": {"prompt_tokens": 5, "total_tokens": 5},
}
MESSAGES_REQUESTS: dict[str, Example] = {
    "Whole": {"max_tokens": 200, "messages": [_USER]},
    "Streamed": {
        "max_tokens": 200,
        "system": _IN_ONE_SENTENCE,
        "messages": [{"role": "user", "content": [{"type": "text", "text": _QUESTION}]}],
        "stream": True,
    },
    "Tool": {
        "max_tokens": 200,
        "messages": [_ASKS_WEATHER],
        "tools": [{"name": "get_weather", "description": "The weather in a city.", "input_schema": _SCHEMA}],
        "tool_choice": {"type": "tool", "name": "get_weather"},
    },
    "JSON by a schema": {
        "max_tokens": 200,
        "messages": [_ASKS_WEATHER],
        "output_config": {"format": {"type": "json_schema", "schema": _SCHEMA}},
    },
}
MESSAGES_RESPONSE: Example = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-haiku-4-5",
    "content": [{"type": "text", "text": _ANSWER}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 13, "output_tokens": 8},
}
COUNT_TOKENS_REQUESTS: dict[str, Example] = {"One message": {"messages": [_USER]}}
COUNT_TOKENS_RESPONSE: Example = {"input_tokens": 13}

OPENAI_MODEL: Example = {"id": "gpt-4o-mini", "object": "model", "created": _CREATED, "owned_by": "openai"}
ANTHROPIC_MODEL: Example = {
    "type": "model",
    "id": "claude-haiku-4-5",
    "display_name": "claude-haiku-4-5",
    "created_at": "2027-01-15T08:00:00Z",
}
