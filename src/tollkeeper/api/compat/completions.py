"""OpenAI's older API of text completions: /v1/completions. The call is translated for every provider."""

from tollkeeper.api import limit_headers
from tollkeeper.api.compat import examples, openai_errors, schemas
from tollkeeper.api.compat.exchange import MAX_BODY_BYTES, CompatExchange, name_default_model
from tollkeeper.api.compat.fields import (
    MAX_TOKENS,
    decode_fields,
    read_fields,
    read_flag,
    read_name,
    read_output_limit,
    read_stream_options,
)
from tollkeeper.api.exchange import Exchange
from tollkeeper.api.metered import MeteredEndpoint
from tollkeeper.api.openapi_parts import DONE_DATA
from tollkeeper.chat import Completion, Usage
from tollkeeper.dialects import chat, completions
from tollkeeper.dialects.chat.request_schema import STREAM_OPTIONS
from tollkeeper.dialects.parameters import filter_parameters
from tollkeeper.dialects.request_schema import (
    BOOLEAN,
    INTEGER,
    MODEL,
    NUMBER,
    STRING,
    any_of,
    list_of,
    output_limit_of,
    request_schema,
)
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.errors import TollkeeperError
from tollkeeper.gateway.candidate import ModelCall
from tollkeeper.principal import Principal
from tollkeeper.providers.base import CallInput, StreamChunk
from tollkeeper.worker_thread import pause


class _CompletionsDialect:
    id_prefix = "cmpl-"

    def __init__(self, *, include_usage: bool) -> None:
        self._include_usage = include_usage

    def write_answer(self, completion: Completion, meta: ResponseMeta, usage: Usage) -> bytes:
        return completions.write_answer(completion, meta, usage)

    def stream_writer(self, meta: ResponseMeta) -> completions.StreamWriter:
        return completions.StreamWriter(meta, with_usage=self._include_usage)

    def follow(self, _chunk: StreamChunk) -> None:
        """No provider's stream is forwarded."""

    def end_provider_stream(self, meta: ResponseMeta, finish_reason: str, usage: Usage) -> bytes:
        return self.stream_writer(meta).end(finish_reason, usage)

    def write_stream_error(self, error: TollkeeperError) -> bytes:
        content = openai_errors.error_object(error)
        return chat.write_stream_error(content["type"], content["code"] or content["type"], content["message"])


def _parse(_caller: Principal, body: bytes) -> Exchange:
    fields = read_fields(body)
    passed = filter_parameters(fields, completions.PARAMETERS)
    model = read_name(fields, "model")
    pause()
    chat_request = completions.read_request(decode_fields(passed))
    call = ModelCall(
        surface="completions",
        input=CallInput(lambda: chat_request, size=len(body)),
        model=model,
        max_output=read_output_limit(fields, "max_tokens"),
    )
    dialect = _CompletionsDialect(include_usage=read_stream_options(fields).include_usage)
    return CompatExchange(call, dialect, streaming=read_flag(fields, "stream"))


REQUEST = request_schema(
    "CompletionRequest",
    "OpenAI's request, with one prompt and one choice.",
    completions.PARAMETERS,
    {
        "prompt": any_of(STRING, list_of(STRING, least=1) | {"maxItems": 1}),
        "model": MODEL,
        "max_tokens": output_limit_of(
            MAX_TOKENS, "The output limit, in tokens. Without it, the server's default applies."
        ),
        "stream": BOOLEAN,
        "stream_options": STREAM_OPTIONS,
        "temperature": NUMBER,
        "top_p": NUMBER,
        "stop": any_of(STRING, list_of(STRING)),
        "seed": INTEGER,
        "presence_penalty": NUMBER,
        "frequency_penalty": NUMBER,
    },
    ("prompt",),
)
COMPLETIONS = MeteredEndpoint(
    path="/v1/completions",
    request_type=REQUEST,
    response_type=schemas.TEXT_COMPLETION,
    error_type=schemas.OPENAI_ERROR,
    parse=_parse,
    prepare=name_default_model,
    summary="OpenAI: text completions",
    description="OpenAI's older wire format, JSON and SSE, for one prompt. The model receives it as a user's message.",
    render_error=openai_errors.render,
    limit_headers=limit_headers.OPENAI,
    max_body_bytes=MAX_BODY_BYTES,
    examples=examples.COMPLETION_REQUESTS,
    response_example=examples.COMPLETION_RESPONSE,
    events=(schemas.TEXT_COMPLETION, schemas.OPENAI_ERROR, DONE_DATA),
)
