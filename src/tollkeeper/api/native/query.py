"""POST /ai/query and /ai/stream: one prompt; the answer whole or streamed."""

import msgspec

from tollkeeper.api.dependencies import Services
from tollkeeper.api.metered import Exchange, MeteredEndpoint
from tollkeeper.api.native.exchange import NativeExchange
from tollkeeper.api.native.model_call import make_call, query_messages
from tollkeeper.api.native.schemas import FinalEvent, QueryRequest, QueryResponse
from tollkeeper.api.strict_json import decode
from tollkeeper.principal import Principal

_decoder = msgspec.json.Decoder(QueryRequest)


async def _parse_query(services: Services, caller: Principal, body: bytes) -> Exchange:
    request = decode(_decoder, body)
    call, conversation = await make_call(services, caller, "query", request, query_messages(request))
    return NativeExchange(call, conversation=conversation)


async def _parse_stream(services: Services, caller: Principal, body: bytes) -> Exchange:
    request = decode(_decoder, body)
    call, conversation = await make_call(services, caller, "stream", request, query_messages(request))
    return NativeExchange(call, streaming=True, conversation=conversation)


QUERY = MeteredEndpoint(
    path="/ai/query",
    request_type=QueryRequest,
    response_type=QueryResponse,
    parse=_parse_query,
    summary="Send one prompt",
    description="Reserves on every quota that applies, calls the model, and charges what the call used.",
)
STREAM = MeteredEndpoint(
    path="/ai/stream",
    request_type=QueryRequest,
    response_type=FinalEvent,
    parse=_parse_stream,
    summary="Send one prompt, and receive the answer as a stream",
    description="Server-sent events: parts of the answer; then one with is_final, the usage and the cost; then [DONE]."
    " The charge is settled before the final event.",
    streams=True,
)
