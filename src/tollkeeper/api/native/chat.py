"""POST /ai/chat: a list of messages, or one message; the answer whole or streamed."""

from tollkeeper.api.dependencies import Services
from tollkeeper.api.exchange import Exchange
from tollkeeper.api.metered import MeteredEndpoint
from tollkeeper.api.native.exchange import NativeExchange
from tollkeeper.api.native.model_call import chat_messages, make_call
from tollkeeper.api.native.parsed_request import ParsedRequest, group_of, note_key, parsed_request
from tollkeeper.api.native.schemas import EVENTS, NativeChatRequest, QueryResponse, exactly_one
from tollkeeper.api.strict_json import decode
from tollkeeper.principal import Principal


def _parse(_caller: Principal, body: bytes) -> ParsedRequest[NativeChatRequest]:
    request = decode(NativeChatRequest, body)
    return parsed_request(request, chat_messages(request), body)


async def _prepare(services: Services, caller: Principal, parsed: ParsedRequest[NativeChatRequest]) -> Exchange:
    call, conversation = await make_call(services, caller, "chat", parsed)
    return NativeExchange(call, streaming=parsed.request.stream, conversation=conversation)


CHAT = MeteredEndpoint(
    path="/ai/chat",
    request_type=NativeChatRequest,
    response_type=QueryResponse,
    parse=_parse,
    read_headers=note_key,
    group_of=group_of,
    prepare=_prepare,
    summary="Continue a conversation",
    description="Accepts a list of messages, or one message. With `stream`, the answer is streamed as on /ai/stream.",
    request_rules=exactly_one("messages", "message"),
    examples={
        "One message": {"message": "Why is the sky blue?", "session_id": "physics"},
        "A list of messages": {
            "messages": [
                {"role": "user", "content": "Why is the sky blue?"},
                {"role": "assistant", "content": "Because air scatters blue light most."},
                {"role": "user", "content": "And at sunset?"},
            ]
        },
        "Streamed": {"message": "Why is the sky blue?", "stream": True},
    },
    events=EVENTS,
)
