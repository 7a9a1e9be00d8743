"""Metered endpoints: the POST endpoints of models. Those that call a model charge for it; others estimate or count.

An endpoint is declared once, as a MeteredEndpoint. The router, the OpenAPI document and the tests of access use this
declaration. MeteredRouter is plain ASGI in front of FastAPI, because a FastAPI route costs more CPU than the ledger.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from tollkeeper.api.attribution import attributed, name_group
from tollkeeper.api.bearer import authenticate
from tollkeeper.api.body_budget import BodyBudget
from tollkeeper.api.cache_choice import choose_cache
from tollkeeper.api.dependencies import Services
from tollkeeper.api.errors import RenderError, cause_of, render_problem
from tollkeeper.api.exchange import Exchange, StreamedExchange
from tollkeeper.api.formats import cache_headers, charge_headers, dropped_header, fallback_header
from tollkeeper.api.keyed_requests import keyed_request_of
from tollkeeper.api.limit_headers import IETF, LimitHeaders, limits_of, limits_of_refusal
from tollkeeper.api.middleware import MAX_BODY_BYTES, read_body, send_response
from tollkeeper.api.openapi_parts import PROBLEM, JsonSchema
from tollkeeper.api.sse_listener import SseListener
from tollkeeper.clock import Clock
from tollkeeper.errors import (
    MethodNotAllowed,
    ShuttingDown,
    TollkeeperError,
    Unauthenticated,
)
from tollkeeper.gateway.call_record import CallRecord
from tollkeeper.gateway.results import CallFailed, CallResult, IdempotentCall
from tollkeeper.principal import Access, Principal
from tollkeeper.providers.base import NO_HEADERS
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest, StoredResponse
from tollkeeper.quota.rules.operations import Balance, Replayed, Unenforced
from tollkeeper.rate_limits.request_rate import RequestRate
from tollkeeper.telemetry.trace_context import join_trace
from tollkeeper.worker_thread import run_by_size

JSON = "application/json"
EVENT_STREAM = "text/event-stream"


@dataclass(frozen=True, slots=True)
class MeteredEndpoint:
    """One metered endpoint, for any authenticated caller. Its method is POST.

    `parse` reads the body of a request, for a large body in another thread. `prepare` makes an exchange of what it
    returns; or the body of the response, if no model is to be called: then nothing is charged, and there is no
    idempotency. Without `prepare`, `parse` returns the exchange. Both raise InputError. `read_headers` notes in what
    `parse` returned the request's headers that the provider needs. `group_of` tells which group the body names that
    `parse` has read. `render_error` renders what is raised before the
    response has begun. `limit_headers` are those of the API whose endpoint it is.

    The rest is for the OpenAPI document. `request_type`, `response_type`, `error_type` and `events` are msgspec types,
    or JSON Schemas with a title; `schemas` are those that they refer to. `events` are the data of a stream's events; a
    text is the only data of its event. Without `response_type`, the response is always streamed. `examples` are
    requests, by name, and `response_example` is a response that is not streamed. `request_rules` are keywords for the
    schema of the request, beyond its type. An endpoint that does not call a model ignores an Idempotency-Key.
    """

    path: str
    request_type: Any
    response_type: Any
    parse: Callable[[Principal, bytes], Any]
    summary: str
    description: str
    examples: Mapping[str, Any]
    prepare: Callable[[Services, Principal, Any], Awaitable[Exchange | bytes]] | None = None
    read_headers: Callable[[Any, Sequence[tuple[bytes, bytes]]], None] | None = None
    group_of: Callable[[Any], str | None] | None = None
    render_error: RenderError = render_problem
    limit_headers: LimitHeaders = IETF
    max_body_bytes: int = MAX_BODY_BYTES
    calls_model: bool = True
    events: Sequence[Any] = ()
    response_example: Any = None
    error_type: JsonSchema = field(default_factory=lambda: PROBLEM)
    request_rules: JsonSchema = field(default_factory=dict)
    schemas: Mapping[str, JsonSchema] = field(default_factory=dict)
    counted_as: str = ""

    @property
    def surface(self) -> str:
        """The name of the endpoint in charges and events: `counted_as`, or its path without `/ai/` or `/v1/`."""
        return self.counted_as or self.path.split("/", 2)[2]


@dataclass(slots=True)
class LimitedRequest:
    """A request to a metered endpoint, and the rate of its caller, once it is counted: what its headers depend on."""

    endpoint: MeteredEndpoint
    clock: Clock
    rate: RequestRate | None = None

    def charge_headers(
        self, charge_id: str, balances: Sequence[Balance], would_refuse: Sequence[Unenforced] = ()
    ) -> dict[str, str]:
        """The headers of a response with a charge: the charge, its quotas, and the limits of the caller."""
        limits = limits_of(balances, self.rate, self.clock.now_ms())
        return charge_headers(charge_id, balances, would_refuse) | self.endpoint.limit_headers.render(limits)

    def error_headers(self, error: TollkeeperError) -> dict[str, str]:
        """The headers of an error's charge, if it has one, or of the limit that refused the call."""
        if isinstance(error, CallFailed) and error.charge is not None:
            charge = error.charge
            return self.charge_headers(charge.charge_id, charge.balances, charge.would_refuse)
        return self.endpoint.limit_headers.render(limits_of_refusal(cause_of(error), self.clock.now_ms()))

    def rate_headers(self) -> dict[str, str]:
        """The headers of a response without a charge."""
        return self.endpoint.limit_headers.render(limits_of((), self.rate, self.clock.now_ms()))


class MeteredRouter:
    """Serves the metered endpoints in front of the application, and passes all other requests to it."""

    def __init__(
        self,
        app: ASGIApp,
        endpoints: Sequence[MeteredEndpoint],
        services: Callable[[], Services],
        body_budget: BodyBudget,
    ) -> None:
        self._app = app
        self._services = services
        self._endpoints = {endpoint.path: endpoint for endpoint in endpoints}
        self._body_budget = body_budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get(scope["path"]) if scope["type"] == "http" else None
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        caller = None
        services = self._services()
        request = LimitedRequest(endpoint, services.clock)
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed("POST")
            caller = await authenticate(services.authenticator, services.throttle, scope, Access.AI)
            caller = await attributed(services, caller, scope["headers"])
            trace = join_trace(scope["headers"])
            with services.call_events.record(caller, endpoint.surface, trace) as record:
                caller.limits.require_surface(endpoint.surface)
                await self._serve(services, request, record, scope, receive, send)
        except TollkeeperError as error:
            if isinstance(error, Unauthenticated):
                services.authenticator.forget(caller)
            await send_error(error, endpoint.render_error, send, request.error_headers(error))

    async def _serve(
        self,
        services: Services,
        request: LimitedRequest,
        record: CallRecord,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Serve a request of the record's caller."""
        caller, endpoint = record.caller, request.endpoint
        request.rate = await services.throttle.check(caller)
        with self._body_budget.count(caller.user_id) as counted_body:
            body = await read_body(scope, receive, endpoint.max_body_bytes, counted_body.grow)
            exchange = await run_by_size(len(body), endpoint.parse, caller, body)
            if endpoint.read_headers is not None:
                endpoint.read_headers(exchange, scope["headers"])
            if endpoint.group_of is not None:
                caller = record.caller = name_group(caller, endpoint.group_of(exchange))
            if endpoint.prepare is not None:
                exchange = await endpoint.prepare(services, caller, exchange)
            is_call = not isinstance(exchange, bytes)
            keyed_request = keyed_request_of(scope["headers"], endpoint.path, body) if is_call else None
            del body  # during the call, only what the exchange needs of it stays in memory
            if isinstance(exchange, bytes):
                await send_response(200, exchange, {"Content-Type": JSON} | request.rate_headers(), send)
                return
            choose_cache(exchange, scope["headers"])
            if (streamed := exchange.streamed) is not None:
                await _respond_streamed(services, request, record, streamed, keyed_request, receive, send)
            else:
                await _respond(services, request, record, exchange, keyed_request, send)


async def _respond(
    services: Services,
    request: LimitedRequest,
    record: CallRecord,
    exchange: Exchange,
    keyed_request: KeyedRequest | None,
    send: Send,
) -> None:
    """Call the model and send the whole answer."""
    idempotent = None
    if keyed_request is not None:
        idempotent = IdempotentCall(keyed_request, lambda result: StoredResponse(200, JSON, exchange.render(result)))
    result = await services.gateway.complete(record, exchange.call, idempotent)
    if isinstance(result, Replayed):
        await _send_replayed(request, result, exchange, send)
        return
    await exchange.save(result)
    charge = result.charge
    headers = {"Content-Type": JSON} | request.charge_headers(charge.charge_id, charge.balances, charge.would_refuse)
    headers |= dropped_header(exchange.call.input.dropped) | fallback_header(result.fallback_for)
    if result.cache is not None:
        headers |= cache_headers(result.cache)
    await send_response(200, exchange.render(result), headers, send)


async def _respond_streamed(
    services: Services,
    request: LimitedRequest,
    record: CallRecord,
    exchange: StreamedExchange,
    keyed_request: KeyedRequest | None,
    receive: Receive,
    send: Send,
) -> None:
    """Call the model and send the answer chunk by chunk. An error after the first chunk is sent as the last event."""
    dropped = exchange.call.input.dropped
    listener = SseListener(
        exchange.render_chunk,
        receive,
        send,
        request.charge_headers,
        record=keyed_request is not None,
        dropped=dropped,
    )
    idempotent = None
    if keyed_request is not None:
        idempotent = IdempotentCall(keyed_request, lambda result: _recorded_response(listener, exchange, result))
    try:
        with listener:
            result = await services.gateway.stream(record, exchange.call, listener, idempotent)
            if isinstance(result, Replayed):
                await _send_replayed(request, result, exchange, send)
                return
            if not result.outcome.cut_short:  # else the client has disconnected
                await exchange.save(result)
                await listener.finish(exchange.render_end(result))
    except CallFailed as failed:
        if not listener.begun:
            raise
        await listener.finish(exchange.render_error(failed.cause))
    except BaseException as error:
        if listener.begun:
            public = ShuttingDown() if isinstance(error, asyncio.CancelledError) else TollkeeperError()
            await listener.finish(exchange.render_error(error if isinstance(error, TollkeeperError) else public))
        raise


def _recorded_response(listener: SseListener, exchange: StreamedExchange, result: CallResult) -> StoredResponse | None:
    """The whole response as it was sent; None if it is too long to be stored."""
    if listener.recorded is None:
        return None
    return StoredResponse(200, EVENT_STREAM, listener.recorded + exchange.render_end(result))


async def _send_replayed(request: LimitedRequest, replayed: Replayed, exchange: Exchange, send: Send) -> None:
    status, content_type, body = replayed.response
    headers = {"Content-Type": content_type, "Idempotent-Replayed": "true"}
    headers |= dropped_header(exchange.call.input.dropped)
    headers |= request.charge_headers(replayed.charge_id, replayed.balances)
    await send_response(status, body, headers, send)


async def send_error(
    error: TollkeeperError, render_error: RenderError, send: Send, further: Mapping[str, str] = NO_HEADERS
) -> None:
    """Send the response for an error, with `further` headers."""
    status, content, headers = render_error(error)
    await send_response(status, content, {**headers, **further}, send)
