"""POST /ai/query and /ai/stream: one prompt, one answer, whole or as it comes."""

import msgspec

from tollkeeper.api.dependencies import Services
from tollkeeper.api.metered import Exchange, MeteredEndpoint, decode
from tollkeeper.api.native.exchange import NativeExchange
from tollkeeper.api.native.model_call import ask, query_turns
from tollkeeper.api.native.schemas import QueryAnswer, QueryRequest, StreamEnd
from tollkeeper.principal import Principal

_decoder = msgspec.json.Decoder(QueryRequest)


async def _query(services: Services, caller: Principal, body: bytes) -> Exchange:
    request = decode(_decoder, body)
    asked, conversation = await ask(services, caller, "query", request, query_turns(request))
    return NativeExchange(asked, conversation=conversation)


async def _stream(services: Services, caller: Principal, body: bytes) -> Exchange:
    request = decode(_decoder, body)
    asked, conversation = await ask(services, caller, "stream", request, query_turns(request))
    return NativeExchange(asked, streaming=True, conversation=conversation)


QUERY = MeteredEndpoint(
    path="/ai/query",
    takes=QueryRequest,
    gives=QueryAnswer,
    opens=_query,
    summary="Ask one prompt",
    description="Reserves on every quota that applies, asks the model once, and charges what it used.",
)
STREAM = MeteredEndpoint(
    path="/ai/stream",
    takes=QueryRequest,
    gives=StreamEnd,
    opens=_stream,
    summary="Ask one prompt, and hear the answer as it comes",
    description="Server-sent events: pieces of the answer, then one with is_final, the usage and the cost; then [DONE]."
    " The charge is settled before the final event.",
    streams=True,
)
