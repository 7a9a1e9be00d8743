"""The errors that providers send: each is recognised for what it is, and nothing of its text but numbers is told."""

from typing import Any

import orjson
import pytest

from tollkeeper import errors
from tollkeeper.dialects import error_bodies
from tollkeeper.dialects.error_bodies import read_error, rejection

SENT = orjson.dumps(
    {
        "model": "m",
        "messages": [{"role": "user", "content": 'my "secret" text'}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "max_tokens": 5,
    }
)


def openai(message: str, code: Any = None, param: str | None = None, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code} | more}


def anthropic(message: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


OVERFLOWS: dict[str, tuple[Any, tuple[int, int] | None]] = {
    "OpenAI, chat": (
        openai(
            "This model's maximum context length is 8192 tokens. However, your messages resulted in 10001 tokens."
            " Please reduce the length of the messages.",
            "context_length_exceeded",
            "messages",
        ),
        (10001, 8192),
    ),
    "OpenAI, code only": (openai("Something new.", "context_length_exceeded"), None),
    "OpenAI, responses": (
        openai("Your input exceeds the context window of this model. Please adjust your input and try again."),
        None,
    ),
    "OpenAI, embeddings": (
        openai(
            "This model's maximum context length is 8192 tokens, however you requested 9000 tokens (9000 in your"
            " prompt; 0 for the completion)."
        ),
        (9000, 8192),
    ),
    "OpenAI, one text": (
        openai(
            "Invalid 'messages[1].content': string too long. Expected a string with maximum length 10485760, but got a"
            " string with length 20485760 instead.",
            "string_above_max_length",
            "messages[1].content",
        ),
        None,
    ),
    "Anthropic": (anthropic("prompt is too long: 210000 tokens > 200000 maximum"), (210000, 200000)),
    "Anthropic, with output": (
        anthropic(
            "input length and `max_tokens` exceed context limit: 198000 + 8192 > 200000, decrease input length or"
            " `max_tokens` and try again"
        ),
        (206192, 200000),
    ),
    "Bedrock": ({"message": "Input is too long for requested model."}, None),
    "Azure": (
        openai(
            "This model's maximum context length is 128000 tokens. However, you requested 130000 tokens (126000 in the"
            " messages, 4000 in the completion). Please reduce the length of the messages or completion.",
            "context_length_exceeded",
        ),
        (130000, 128000),
    ),
    "Gemini": (
        [
            {
                "error": {
                    "code": 400,
                    "message": "The input token count (1200000) exceeds the maximum number of tokens allowed"
                    " (1048576).",
                    "status": "INVALID_ARGUMENT",
                }
            }
        ],
        (1200000, 1048576),
    ),
    "Mistral": (
        {
            "object": "error",
            "message": "Prompt contains 41000 tokens and 0 draft tokens, too large for model with 32768 maximum context"
            " length",
            "type": "invalid_request_prompt",
            "param": None,
            "code": "3051",
        },
        (41000, 32768),
    ),
    "vLLM": (
        {
            "object": "error",
            "message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4500 in"
            " the messages, 500 in the completion). Please reduce the length of the messages or completion.",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
        (5000, 4096),
    ),
    "vLLM, output": (
        openai(
            "'max_tokens' or 'max_completion_tokens' is too large: 5000. This model's maximum context length is 4096"
            " tokens and your request has 20 input tokens (5000 > 4096 - 20). None",
            400,
        ),
        (5020, 4096),
    ),
    "vLLM, long prompt": (
        openai("The decoder prompt (length 5000) is longer than the maximum model length of 4096.", 400),
        (5000, 4096),
    ),
    "vLLM, newer": (
        openai(
            "You passed 4097 input tokens and requested 10 output tokens. However, the model's context length is only"
            " 4096 tokens, resulting in a maximum input length of 4086 tokens.",
            400,
        ),
        (4107, 4096),
    ),
    "SGLang": (
        openai("The input (5000 tokens) is longer than the model's context length (4096 tokens).", 400),
        (5000, 4096),
    ),
    "llama.cpp": (
        openai(
            "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
            400,
            type="exceed_context_size_error",
            n_prompt_tokens=5000,
            n_ctx=4096,
        ),
        (5000, 4096),
    ),
    "llama.cpp, older": (
        openai("the request exceeds the available context size. try increasing the context size", 500),
        None,
    ),
    "Ollama": ({"error": "the input length exceeds the context length"}, None),
    "Ollama, cloud": ({"error": "prompt too long; exceeded max context length by 1234 tokens"}, None),
    "OpenRouter": (
        openai(
            "This endpoint's maximum context length is 131072 tokens. However, you requested about 150000 tokens"
            " (149000 of text input, 1000 in the output). Please reduce the length of either one.",
            400,
        ),
        (150000, 131072),
    ),
    "OpenRouter, as its provider said it": (
        openai(
            "Provider returned error",
            400,
            metadata={"raw": orjson.dumps(anthropic("prompt is too long: 9 tokens > 8 maximum")).decode()},
        ),
        (9, 8),
    ),
    "LiteLLM": (
        openai(
            "litellm.ContextWindowExceededError: litellm.BadRequestError: ContextWindowExceededError: OpenAIException -"
            " This model's maximum context length is 8192 tokens. However, your messages resulted in 10001 tokens.",
            "400",
        ),
        (10001, 8192),
    ),
    "DeepSeek": (
        openai(
            "This model's maximum context length is 65536 tokens. However, you requested 70000 tokens (66000 in the"
            " messages, 4000 in the completion).",
            "invalid_request_error",
        ),
        (70000, 65536),
    ),
    "xAI": (
        {"error": "This model's maximum prompt length is 131072 but the request contains 537812 tokens."},
        (537812, 131072),
    ),
    "response.failed": (
        {
            "type": "response.failed",
            "response": {"status": "failed", "error": {"code": "context_length_exceeded", "message": "x"}},
        },
        None,
    ),
    "plain text": ("prompt is too long: 210,000 tokens > 200,000 maximum", (210000, 200000)),
}


@pytest.mark.parametrize(("body", "sizes"), OVERFLOWS.values(), ids=OVERFLOWS.keys())
def test_a_context_overflow_is_recognised_with_its_numbers(body: Any, sizes: tuple[int, int] | None) -> None:
    error = rejection(read_error(orjson.dumps(body)), SENT)
    assert type(error) is errors.ContextOverflow
    assert (error.tokens, error.max_tokens) == (sizes or (None, None))


FILTERED: dict[str, Any] = {
    "Azure": openai(
        "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        "content_filter",
        "prompt",
        innererror={"code": "ResponsibleAIPolicyViolation"},
    ),
    "Azure, by its inner code": openai("No.", None, innererror={"code": "ResponsibleAIPolicyViolation"}),
    "OpenAI": openai(
        "Invalid prompt: your prompt was flagged as potentially violating our usage policy.", "invalid_prompt"
    ),
    "Anthropic": anthropic("Output blocked by content filtering policy"),
    "DeepSeek": openai("Content Exists Risk", "invalid_request_error"),
    "OpenRouter": openai('m requires moderation. Your input was flagged for "violence".', 403),
    "LiteLLM": openai("litellm.ContentPolicyViolationError: AzureException - x", "400"),
}


@pytest.mark.parametrize("body", FILTERED.values(), ids=FILTERED.keys())
def test_filtered_content_is_recognised(body: Any) -> None:
    assert type(rejection(read_error(orjson.dumps(body)), SENT)) is errors.ContentFiltered


@pytest.mark.parametrize(
    "body",
    [
        anthropic("Request exceeds the maximum size", "request_too_large"),
        [{"error": {"code": 400, "message": "Request payload size exceeds the limit: 20971520 bytes."}}],
    ],
)
def test_a_body_that_is_too_large_is_recognised(body: Any) -> None:
    assert type(rejection(read_error(orjson.dumps(body)), SENT)) is errors.RequestTooLarge


PARAMETERS: dict[str, tuple[Any, str]] = {
    "OpenAI": (
        openai("Invalid schema for function 'f'", "invalid_function_parameters", "tools[0].function.parameters"),
        "tools[0].function.parameters",
    ),
    "OpenAI, another field": (openai("Too high.", None, "max_tokens"), "max_tokens"),
    "Anthropic": (anthropic("tools.0.custom.input_schema: JSON schema is invalid."), "tools.0.custom"),
    "Gemini": (
        [
            {
                "error": {
                    "message": "* GenerateContentRequest.tools[0].function_declarations[0].parameters: missing field"
                }
            }
        ],
        "tools[0]",
    ),
    "FastAPI": (
        {"detail": [{"type": "missing", "loc": ["body", "tools", 0, "function", "strict"], "msg": "Field required"}]},
        "tools[0].function",
    ),
    "only the text": (openai("Invalid schema for function 'f': None is not of type 'object'", 400), "tools"),
}


@pytest.mark.parametrize(("body", "parameter"), PARAMETERS.values(), ids=PARAMETERS.keys())
def test_the_field_at_fault_is_named_as_far_as_the_request_has_its_names(body: Any, parameter: str) -> None:
    error = rejection(read_error(orjson.dumps(body)), SENT)
    assert error is not None
    assert (error.parameter, parameter in error.detail) == (parameter, True)


@pytest.mark.parametrize("param", ["secret", "upstream_field", "to ols", "-", "", "0", "text", "a" * 500, 7, {}])
def test_a_name_that_the_request_does_not_have_as_a_field_is_not_told(param: Any) -> None:
    assert rejection(read_error(orjson.dumps(openai("No.", None, param))), SENT) is None


@pytest.mark.parametrize(
    "message",
    [
        "Invalid 'messages[1].tool_calls[0].id': string too long. Expected a string with maximum length 40, but got a"
        " string with length 53 instead.",
        "max_tokens is too large: 100000. This model supports at most 16384 completion tokens.",
        "Rate limit reached for m on tokens per min (TPM): Limit 30000, Used 20000, Requested 15000.",
        "Unsupported parameter: content_filter",
        "",
    ],
)
def test_any_other_rejection_is_not_taken_for_one_of_them(message: str) -> None:
    assert rejection(read_error(orjson.dumps(openai(message))), b"{}") is None


@pytest.mark.parametrize(
    "text",
    [
        "maximum context length is 10000 tokens, you requested 9 tokens",
        "prompt is too long: 8 tokens > 0 maximum",
        "prompt is too long: 99999999999999 tokens > 8 maximum",
    ],
)
def test_numbers_that_cannot_be_true_are_not_told(text: str) -> None:
    error = rejection(read_error(text.encode()), SENT)
    assert isinstance(error, errors.ContextOverflow)
    assert (error.tokens, error.detail) == (None, error.sentence)


def test_the_callers_own_content_in_an_event_is_not_searched() -> None:
    failed = {
        "type": "response.failed",
        "response": {"instructions": "prompt is too long", "output": [{"message": "prompt is too long"}], "error": {}},
    }
    assert rejection(read_error(orjson.dumps(failed)), SENT) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\x00",
        b"[" * 10_000,
        b'{"error":' * 50,
        b"null",
        b"7",
        b'{"error":{"message":7,"code":[],"param":[]}}',
        b'{"error":1e400}',
        b'{"detail":[{"loc":["body",null,{}]}]}',
        b"x" * (error_bodies.MAX_BYTES + 7),
    ],
)
def test_any_body_can_be_read(body: bytes) -> None:
    read = read_error(body)
    assert len(read.text) <= error_bodies.MAX_TEXT
    assert rejection(read, SENT) is None


def test_the_code_of_an_error_is_its_first_word() -> None:
    assert read_error(orjson.dumps(openai("x", "invalid_api_key"))).code == "invalid_api_key"
    assert read_error(orjson.dumps(anthropic("x", "overloaded_error"))).code == "overloaded_error"
    assert read_error(b'{"error":{"code":429,"status":"RESOURCE_EXHAUSTED"}}').code == "resource_exhausted"
    assert read_error(orjson.dumps(openai("x", "my secret text"))).code == "invalid_request_error"


@pytest.mark.parametrize(
    "message",
    [
        "role 'system' is not supported on this model",
        'messages: Unexpected role "system". The Messages API accepts a top-level `system` parameter.',
    ],
)
def test_a_refused_system_message_is_told_in_the_words_that_clients_look_for(message: str) -> None:
    rejected = rejection(read_error(orjson.dumps({"type": "error", "error": {"message": message}})), b"{}")
    assert rejected is not None
    assert "Unexpected role" in rejected.detail
    assert "input message role" in rejected.detail
