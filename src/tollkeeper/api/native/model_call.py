"""From what a native door takes to what is asked."""

from tollkeeper.api.dependencies import Services
from tollkeeper.api.native.schemas import ChatAsked, ChatMessage, QueryRequest, Wanted
from tollkeeper.chat import ChatRequest, Message, Options
from tollkeeper.conversations import Conversation
from tollkeeper.errors import InvalidRequest, UnsupportedParameter
from tollkeeper.gateway.candidate import ModelCall
from tollkeeper.principal import Principal
from tollkeeper.providers.base import CallInput

NOT_BUILT = ("evaluate", "retrieve")


def query_turns(request: QueryRequest) -> tuple[Message, ...]:
    return (*_system(request), Message("user", request.prompt))


def chat_turns(request: ChatAsked) -> tuple[Message, ...]:
    """Raises InvalidRequest unless there is either a list of messages or one message."""
    if (request.messages is None) == (request.message is None):
        raise InvalidRequest("Either messages or message is needed.")
    if request.message is not None:
        return (*_system(request), Message("user", request.message))
    assert request.messages is not None
    turns = tuple(map(_turn, request.messages))
    if turns[-1].role != "user":
        raise InvalidRequest("The last message must be the user's.")
    return (*_system(request), *turns)


async def ask(
    services: Services, caller: Principal, surface: str, request: Wanted, turns: tuple[Message, ...]
) -> tuple[ModelCall, Conversation | None]:
    """What is asked, after what was said before. Raises UnsupportedParameter for features that are not there."""
    for name in NOT_BUILT:
        if getattr(request, name):
            raise UnsupportedParameter(f"{name} is not supported.", parameter=name)
    conversation = None
    if request.session_id is not None:
        conversation = await services.conversations.open(caller, request.session_id, turns)
        turns = conversation.turns
    asked = ChatRequest(turns, Options(temperature=request.temperature))
    return (
        ModelCall(
            surface=surface,
            input=CallInput(lambda: asked),
            model=request.model,
            max_output=request.max_tokens,
            allocation=request.context_allocation,
        ),
        conversation,
    )


def _system(request: Wanted) -> tuple[Message, ...]:
    return (Message("system", request.system_prompt),) if request.system_prompt is not None else ()


def _turn(message: ChatMessage) -> Message:
    return Message(message.role, message.content)
