"""POST /chat, /api/generate and, with a `user_id`, /ai/query."""

from dataclasses import replace

import msgspec

from tollkeeper.api.dependencies import Services
from tollkeeper.api.exchange import Exchange
from tollkeeper.api.formats import iso
from tollkeeper.api.legacy.schemas import (
    LegacyChatRequest,
    LegacyChatResponse,
    LegacyGenerateRequest,
    LegacyGenerateResponse,
    LegacyQueryRequest,
    LegacyRequest,
    require_own_id,
)
from tollkeeper.api.metered import MeteredEndpoint
from tollkeeper.api.native import query
from tollkeeper.api.native.exchange import NativeExchange
from tollkeeper.api.native.model_call import make_call, query_messages
from tollkeeper.api.native.parsed_request import ParsedRequest, parsed_request
from tollkeeper.api.native.schemas import EVENTS, QueryRequest
from tollkeeper.api.strict_json import decode
from tollkeeper.gateway.results import CallResult
from tollkeeper.principal import Principal

_encode = msgspec.json.Encoder().encode


class _ChatExchange(NativeExchange):
    def render(self, result: CallResult) -> bytes:
        usage = result.usage
        return _encode(
            LegacyChatResponse(result.completion.text, usage.input_tokens, usage.output_tokens, usage.total_tokens)
        )


class _GenerateExchange(NativeExchange):
    prompt = ""
    timestamp = ""

    def render(self, result: CallResult) -> bytes:
        response = LegacyGenerateResponse(
            self.prompt, result.completion.text, result.usage.total_tokens, self.timestamp
        )
        return _encode(response)


def _parsed(caller: Principal, request: LegacyRequest, prompt: str, size: int) -> ParsedRequest[QueryRequest]:
    """The request in the form of /ai/query. Raises Forbidden."""
    require_own_id(caller, request.user_id)
    asked = QueryRequest(
        prompt=prompt,
        system_prompt=request.system_prompt,
        model=request.model,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
    )
    return ParsedRequest(asked, query_messages(asked), size)


def _parse_chat(caller: Principal, body: bytes) -> tuple[ParsedRequest[QueryRequest], bool]:
    request = decode(LegacyChatRequest, body)
    return _parsed(caller, request, request.message, len(body)), request.stream


def _parse_generate(caller: Principal, body: bytes) -> tuple[ParsedRequest[QueryRequest], bool]:
    request = decode(LegacyGenerateRequest, body)
    return _parsed(caller, request, request.prompt, len(body)), request.stream


def _parse_query(caller: Principal, body: bytes) -> ParsedRequest[QueryRequest]:
    request = decode(LegacyQueryRequest, body)
    require_own_id(caller, request.user_id)
    return parsed_request(request, query_messages(request), body)


async def _prepare_chat(
    services: Services, caller: Principal, sent: tuple[ParsedRequest[QueryRequest], bool]
) -> Exchange:
    call, _ = await make_call(services, caller, CHAT.surface, sent[0])
    return _ChatExchange(call, streaming=sent[1])


async def _prepare_generate(
    services: Services, caller: Principal, sent: tuple[ParsedRequest[QueryRequest], bool]
) -> Exchange:
    call, _ = await make_call(services, caller, GENERATE.surface, sent[0])
    exchange = _GenerateExchange(call, streaming=sent[1])
    exchange.prompt, exchange.timestamp = sent[0].request.prompt, iso(services.clock.now_ms())
    return exchange


CHAT = MeteredEndpoint(
    path="/chat",
    counted_as="chat",
    request_type=LegacyChatRequest,
    response_type=LegacyChatResponse,
    parse=_parse_chat,
    prepare=_prepare_chat,
    summary="Legacy: one message, and the tokens of its answer",
    description="For clients of a wrapper that are not changed yet: use /ai/chat instead.",
    examples={"One message": {"message": "Why is the sky blue?", "system_prompt": "Answer in one sentence."}},
    events=EVENTS,
)
GENERATE = MeteredEndpoint(
    path="/api/generate",
    counted_as="query",
    request_type=LegacyGenerateRequest,
    response_type=LegacyGenerateResponse,
    parse=_parse_generate,
    prepare=_prepare_generate,
    summary="Legacy: one prompt",
    description="For clients of a wrapper that are not changed yet: use /ai/query instead.",
    examples={"One prompt": {"prompt": "Why is the sky blue?"}},
    events=EVENTS,
)
QUERY = replace(query.QUERY, request_type=LegacyQueryRequest, parse=_parse_query)
