"""The metered doors: endpoints on the way to a model, with an entrance leaner than the framework's.

A door declares its access, its input and its output once. The entrance, the OpenAPI document and the tests of access
are all made from that declaration.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from tollkeeper.api import strict_json
from tollkeeper.api.bearer import access_token
from tollkeeper.api.body_budget import BodyBudget
from tollkeeper.api.dependencies import Services
from tollkeeper.api.errors import NATIVE, RenderError
from tollkeeper.api.formats import charge_headers
from tollkeeper.api.middleware import MAX_BODY_BYTES, read_body, send_response
from tollkeeper.api.sse_listener import SseListener
from tollkeeper.errors import (
    InvalidJson,
    InvalidRequest,
    MethodNotAllowed,
    ShuttingDown,
    TollkeeperError,
    Unauthenticated,
)
from tollkeeper.gateway.candidate import ModelCall
from tollkeeper.gateway.results import CallFailed, CallResult, IdempotentCall
from tollkeeper.principal import Access, Principal
from tollkeeper.providers.base import StreamChunk
from tollkeeper.quota.rules.keys import KeyedRequest, StoredResponse
from tollkeeper.quota.rules.operations import Replayed

OF_OTHERS: Any = dict[str, Any]
"""A shape that someone else has described."""

JSON = "application/json"
EVENTS = "text/event-stream"

_KEY = re.compile(rb"[\x21-\x7e]{1,255}")


class Exchange(Protocol):
    """One call through a door: what is asked, and how its answer is said. Saying it changes nothing."""

    @property
    def ask(self) -> ModelCall: ...

    @property
    def streamed(self) -> "StreamedExchange | None":
        """Itself, if the answer is to be said as it comes."""
        ...

    def whole(self, answer: CallResult) -> bytes:
        """The answer in one piece."""
        ...

    async def remember(self, answer: CallResult) -> None:
        """The answer is about to be given."""
        ...


class StreamedExchange(Exchange, Protocol):
    """A call whose answer can be said piece by piece."""

    def piece(self, piece: StreamChunk) -> bytes:
        """Some of a streamed answer; nothing, if there is nothing in it to be heard."""
        ...

    def end(self, answer: CallResult) -> bytes:
        """What ends a streamed answer."""
        ...

    def broken(self, error: TollkeeperError) -> bytes:
        """What ends a streamed answer that broke."""
        ...


@dataclass(frozen=True, slots=True)
class MeteredEndpoint:
    """One metered endpoint, for any signed-in caller.

    `takes` and `gives` are the shapes of input and output, `manner` is how it says what went wrong. `opens` reads a
    body, and raises InputError; where no model is to be asked, it knows the answer.
    """

    path: str
    takes: Any
    gives: Any
    opens: Callable[[Services, Principal, bytes], Awaitable[Exchange | bytes]]
    summary: str
    description: str
    manner: RenderError = NATIVE
    largest_body: int = MAX_BODY_BYTES
    streams: bool = False


class MeteredRouter:
    """Stands in front of the application and serves the doors; everything else passes."""

    def __init__(self, app: ASGIApp, doors: Sequence[MeteredEndpoint], services: Callable[[], Services]) -> None:
        self._app = app
        self._services = services
        self._doors = {door.path: door for door in doors}
        self._bodies = BodyBudget()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        door = self._doors.get(scope["path"]) if scope["type"] == "http" else None
        if door is None:
            await self._app(scope, receive, send)
            return
        caller = None
        services = self._services()
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed("POST")
            caller = await services.credentials.verify(access_token(scope), Access.AI)
            services.throttle.check(caller)
            with self._bodies.of(caller.user_id) as held:
                body = await read_body(scope, receive, door.largest_body, held.grow)
                visit = await door.opens(services, caller, body)
                key = _Key.of(scope, door, body) if not isinstance(visit, bytes) else None
                del body  # as long as the call lasts, only what the visit needs of it is kept
                if isinstance(visit, bytes):
                    await send_response(200, visit, {"Content-Type": JSON}, send)
                elif (streamed := visit.streamed) is not None:
                    await _stream(services, door, caller, streamed, key, receive, send)
                else:
                    await _answer(services, caller, visit, key, send)
        except TollkeeperError as error:
            if isinstance(error, Unauthenticated):
                services.credentials.forget(caller)
            await send_error(error, door.manner, send)


@dataclass(frozen=True, slots=True)
class _Key:
    """What makes a call one that may come again: its Idempotency-Key, and what it was sent with."""

    request: KeyedRequest

    @classmethod
    def of(cls, scope: Scope, door: MeteredEndpoint, body: bytes) -> "_Key | None":
        """Raises InvalidRequest for a key that is none."""
        found = [value for name, value in scope["headers"] if name == b"idempotency-key"]
        if not found:
            return None
        if len(found) > 1 or not _KEY.fullmatch(found[0]):
            raise InvalidJson("An Idempotency-Key is 1 to 255 printable characters without spaces.")
        return cls(KeyedRequest(found[0].decode(), hashlib.sha256(door.path.encode() + b"\0" + body).hexdigest()))


async def _answer(services: Services, caller: Principal, visit: Exchange, key: _Key | None, send: Send) -> None:
    """One whole answer."""
    keeping = None
    if key is not None:
        keeping = IdempotentCall(key.request, lambda answer: StoredResponse(200, JSON, visit.whole(answer)))
    answer = await services.gateway.complete(caller, visit.ask, keeping)
    if isinstance(answer, Replayed):
        await _say_again(answer, send)
        return
    await visit.remember(answer)
    headers = {"Content-Type": JSON} | charge_headers(answer.charge.charge_id, answer.charge.balances)
    await send_response(200, visit.whole(answer), headers, send)


async def _stream(
    services: Services,
    door: MeteredEndpoint,
    caller: Principal,
    visit: StreamedExchange,
    key: _Key | None,
    receive: Receive,
    send: Send,
) -> None:
    """An answer piece by piece. What goes wrong before the first is an error like another, and an event after it."""
    listener = SseListener(visit.piece, receive, send, keeps=key is not None)
    keeping = None
    if key is not None:
        keeping = IdempotentCall(key.request, lambda answer: _kept(listener, visit, answer))
    try:
        with listener:
            answer = await services.gateway.stream(caller, visit.ask, listener, keeping)
            if isinstance(answer, Replayed):
                await _say_again(answer, send)
                return
            if not answer.outcome.cut_short:  # else nobody reads what would be said now
                await visit.remember(answer)
                await listener.finish(visit.end(answer))
    except CallFailed as failed:
        if not listener.begun:
            raise
        await listener.finish(visit.broken(failed.cause))
    except BaseException as error:
        if listener.begun:
            told = ShuttingDown() if isinstance(error, asyncio.CancelledError) else TollkeeperError()
            await listener.finish(visit.broken(error if isinstance(error, TollkeeperError) else told))
        raise


def _kept(listener: SseListener, visit: StreamedExchange, answer: CallResult) -> StoredResponse | None:
    """All that was said, unless it is too long for anyone to keep."""
    return StoredResponse(200, EVENTS, listener.said + visit.end(answer)) if listener.said is not None else None


async def _say_again(replayed: Replayed, send: Send) -> None:
    status, content_type, body = replayed.answer
    headers = {"Content-Type": content_type, "Idempotent-Replayed": "true"}
    await send_response(status, body, headers | charge_headers(replayed.charge_id, replayed.balances), send)


async def send_error(error: TollkeeperError, manner: RenderError, send: Send) -> None:
    """Send the response for an error, with the charge if there is one."""
    status, content, headers = manner(error)
    if isinstance(error, CallFailed) and error.charge is not None:
        headers |= charge_headers(error.charge.charge_id, error.charge.balances)
    await send_response(status, content, headers, send)


def decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """The body in the decoder's shape. Raises InvalidJson, InvalidRequest, neither with anything of the input in it."""
    strict_json.check(body)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(_without_input(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidJson from None


def _without_input(complaint: str) -> str:
    """msgspec's complaints name our fields and types; only an unknown field's name comes from the caller."""
    if "unknown field" in complaint:
        return "The request has a field that this endpoint does not know."
    return complaint.replace("`", "'") + "."
