"""POST /ai/query and /ai/stream: one prompt; the answer whole or streamed."""

from tollkeeper.api.dependencies import Services
from tollkeeper.api.exchange import Exchange
from tollkeeper.api.metered import MeteredEndpoint
from tollkeeper.api.native.exchange import NativeExchange
from tollkeeper.api.native.model_call import make_call, query_messages
from tollkeeper.api.native.parsed_request import ParsedRequest, group_of, note_key, parsed_request
from tollkeeper.api.native.schemas import EVENTS, QueryRequest, QueryResponse
from tollkeeper.api.strict_json import decode
from tollkeeper.principal import Principal


def _parse(_caller: Principal, body: bytes) -> ParsedRequest[QueryRequest]:
    request = decode(QueryRequest, body)
    return parsed_request(request, query_messages(request), body)


async def _prepare_query(services: Services, caller: Principal, parsed: ParsedRequest[QueryRequest]) -> Exchange:
    call, conversation = await make_call(services, caller, "query", parsed)
    return NativeExchange(call, conversation=conversation)


async def _prepare_stream(services: Services, caller: Principal, parsed: ParsedRequest[QueryRequest]) -> Exchange:
    call, conversation = await make_call(services, caller, "stream", parsed)
    return NativeExchange(call, streaming=True, conversation=conversation)


QUERY = MeteredEndpoint(
    path="/ai/query",
    request_type=QueryRequest,
    response_type=QueryResponse,
    parse=_parse,
    read_headers=note_key,
    group_of=group_of,
    prepare=_prepare_query,
    summary="Send one prompt",
    description="Reserves on every quota that applies, calls the model, and charges what the call used.",
    examples={
        "One prompt": {"prompt": "Why is the sky blue?"},
        "With options": {
            "prompt": "Why is the sky blue?",
            "system_prompt": "Answer in one sentence.",
            "max_tokens": 200,
            "temperature": 0.3,
            "session_id": "physics",
            "context_allocation": 5_000,
        },
        "With a quality score": {"prompt": "Why is the sky blue?", "evaluate": True},
    },
)
STREAM = MeteredEndpoint(
    path="/ai/stream",
    request_type=QueryRequest,
    response_type=None,
    parse=_parse,
    read_headers=note_key,
    group_of=group_of,
    prepare=_prepare_stream,
    summary="Send one prompt, and receive the answer as a stream",
    description="Server-sent events: parts of the answer; then one with is_final, the usage and the cost; then [DONE]."
    " The charge is settled before the final event.",
    examples={"One prompt": {"prompt": "Why is the sky blue?"}},
    events=EVENTS,
)
