"""OpenAI's count of the input of a response: /v1/responses/input_tokens."""

import orjson

from tollkeeper.api import limit_headers
from tollkeeper.api.compat import examples, openai_errors, schemas
from tollkeeper.api.compat.exchange import MAX_BODY_BYTES
from tollkeeper.api.compat.openai import RESPONSES
from tollkeeper.api.dependencies import Services
from tollkeeper.api.metered import MeteredEndpoint
from tollkeeper.gateway.candidate import ModelCall
from tollkeeper.principal import Principal
from tollkeeper.tenant_scope import TenantScope


def _parse(caller: Principal, body: bytes) -> ModelCall:
    call: ModelCall = RESPONSES.parse(caller, body).call
    return call


async def _count(services: Services, caller: Principal, call: ModelCall) -> bytes:
    """Count the input with a tokenizer of this server; the provider is not called."""
    async with services.database.session(TenantScope(caller.tenant_id)) as session:
        await services.authenticator.load_account(session, caller)
    tokens = await services.gateway.count_input(caller, call)
    return orjson.dumps({"object": "response.input_tokens", "input_tokens": tokens})


INPUT_TOKENS = MeteredEndpoint(
    path="/v1/responses/input_tokens",
    request_type=RESPONSES.request_type
    | {
        "title": "InputTokensRequest",
        "description": "As for a response. The output limit and `stream` have no effect.",
    },
    response_type=schemas.INPUT_TOKENS,
    error_type=schemas.OPENAI_ERROR,
    parse=_parse,
    prepare=_count,
    summary="OpenAI: count the tokens of an input",
    description="Counted with the best tokenizer available, without a call of the provider. Free of charge.",
    render_error=openai_errors.render,
    limit_headers=limit_headers.OPENAI,
    max_body_bytes=MAX_BODY_BYTES,
    examples=examples.INPUT_TOKENS_REQUESTS,
    response_example=examples.INPUT_TOKENS_RESPONSE,
    calls_model=False,
)
