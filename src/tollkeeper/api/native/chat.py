"""POST /ai/chat: a list of messages, or one; the answer whole or as it comes."""

import msgspec

from tollkeeper.api.dependencies import Services
from tollkeeper.api.metered import Exchange, MeteredEndpoint, decode
from tollkeeper.api.native.exchange import NativeExchange
from tollkeeper.api.native.model_call import ask, chat_turns
from tollkeeper.api.native.schemas import ChatAsked, QueryAnswer
from tollkeeper.principal import Principal

_decoder = msgspec.json.Decoder(ChatAsked)


async def _chat(services: Services, caller: Principal, body: bytes) -> Exchange:
    request = decode(_decoder, body)
    asked, conversation = await ask(services, caller, "chat", request, chat_turns(request))
    return NativeExchange(asked, streaming=request.stream, conversation=conversation)


CHAT = MeteredEndpoint(
    path="/ai/chat",
    takes=ChatAsked,
    gives=QueryAnswer,
    opens=_chat,
    summary="Go on with a conversation",
    description="A list of messages, or one message; with `stream`, the answer comes as on /ai/stream.",
    streams=True,
)
