"""POST /ai/chat: a list of messages, or one message; the answer whole or streamed."""

import msgspec

from tollkeeper.api.dependencies import Services
from tollkeeper.api.metered import Exchange, MeteredEndpoint
from tollkeeper.api.native.exchange import NativeExchange
from tollkeeper.api.native.model_call import chat_messages, make_call
from tollkeeper.api.native.schemas import NativeChatRequest, QueryResponse
from tollkeeper.api.strict_json import decode
from tollkeeper.principal import Principal

_decoder = msgspec.json.Decoder(NativeChatRequest)


async def _parse(services: Services, caller: Principal, body: bytes) -> Exchange:
    request = decode(_decoder, body)
    call, conversation = await make_call(services, caller, "chat", request, chat_messages(request))
    return NativeExchange(call, streaming=request.stream, conversation=conversation)


CHAT = MeteredEndpoint(
    path="/ai/chat",
    request_type=NativeChatRequest,
    response_type=QueryResponse,
    parse=_parse,
    summary="Continue a conversation",
    description="Accepts a list of messages, or one message. With `stream`, the answer is streamed as on /ai/stream.",
    streams=True,
)
