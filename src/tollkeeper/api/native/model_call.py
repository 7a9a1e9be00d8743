"""Makes a ModelCall of a request to /ai/*."""

from dataclasses import replace

from tollkeeper.api.dependencies import Services
from tollkeeper.api.native.parsed_request import AnyRequest, ParsedRequest
from tollkeeper.api.native.passages import find_passages
from tollkeeper.api.native.schemas import ChatMessage, NativeChatRequest, NativeRequest, QueryRequest
from tollkeeper.chat import ChatRequest, Message, Options
from tollkeeper.conversations import Conversation
from tollkeeper.errors import InvalidRequest
from tollkeeper.gateway.candidate import ModelCall
from tollkeeper.principal import Principal
from tollkeeper.providers.base import CallInput
from tollkeeper.retrieval.prompts import with_passages


def query_messages(request: QueryRequest) -> tuple[Message, ...]:
    return (*_system(request), Message("user", request.prompt))


def chat_messages(request: NativeChatRequest) -> tuple[Message, ...]:
    """Raises InvalidRequest unless there is either one message, or a list of them with the last one the user's."""
    if (request.messages is None) == (request.message is None):
        raise InvalidRequest("Send either messages or message.")
    if request.message is not None:
        return (*_system(request), Message("user", request.message))
    assert request.messages is not None
    messages = tuple(map(_message, request.messages))
    if messages[-1].role != "user":
        raise InvalidRequest("The last message must be the user's.")
    return (*_system(request), *messages)


async def make_call(
    services: Services, caller: Principal, surface: str, parsed: ParsedRequest[AnyRequest]
) -> tuple[ModelCall, Conversation | None]:
    """The call with the request's messages, after those of the conversation that the request continues, if any."""
    request, messages, size = parsed.request, parsed.messages, parsed.size
    surface = parsed.surface or surface
    conversation, passages = None, parsed.passages
    if request.session_id is not None:
        caller = replace(caller, conversation=request.session_id)
    if request.retrieve and passages is None:
        passages = await find_passages(services, caller, surface, parsed)
    if request.session_id is not None:
        conversation = await services.conversations.open(caller, request.session_id, messages)
        messages = conversation.messages
    if passages is not None:
        messages = with_passages(messages, passages)
    chat_request = ChatRequest(messages, Options(temperature=request.temperature))
    call = ModelCall(
        surface=surface,
        input=CallInput(lambda: chat_request, size=size),
        model=request.model,
        max_output=request.max_tokens,
        allocation=request.context_allocation,
        cache=request.cache,
        passages=passages,
        evaluate=request.evaluate,
        conversation=request.session_id,
    )
    return call, conversation


def _system(request: NativeRequest) -> tuple[Message, ...]:
    return (Message("system", request.system_prompt),) if request.system_prompt is not None else ()


def _message(message: ChatMessage) -> Message:
    return Message(message.role, message.content)
