"""The metered doors: endpoints on the way to a model, with an entrance leaner than the framework's.

A door declares its access, its input and its output once. The entrance, the OpenAPI document and the tests of access
are all made from that declaration.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from tollkeeper.api import strict_json
from tollkeeper.api.dependencies import Services, bearer_token
from tollkeeper.api.errors import quota_headers, render
from tollkeeper.api.middleware import send_response
from tollkeeper.errors import InvalidJson, InvalidRequest, MethodNotAllowed, TollkeeperError
from tollkeeper.gateway import FailedCall
from tollkeeper.principal import Principal
from tollkeeper.quota.operations import Balance, Closed

Headers = dict[str, str]


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished answer: the struct to be sent, and the charge it came with."""

    body: msgspec.Struct
    charge: Closed


@dataclass(frozen=True, slots=True)
class Door:
    """One metered endpoint, for any signed-in caller. `takes` and `gives` are the shapes of input and output."""

    path: str
    takes: type[msgspec.Struct]
    gives: type[msgspec.Struct]
    answer: Callable[[Services, Principal, Any], Awaitable[Reply]]
    summary: str
    description: str


class Entrance:
    """Stands in front of the application and serves the doors; everything else passes."""

    def __init__(self, app: ASGIApp, doors: Sequence[Door], services: Callable[[], Services]) -> None:
        self._app = app
        self._services = services
        self._doors = {door.path: (door, msgspec.json.Decoder(door.takes)) for door in doors}
        self._encode = msgspec.json.Encoder().encode

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._doors.get(scope["path"]) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        door, decoder = found
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed("POST")
            services = self._services()
            caller = services.tokens.verify(bearer_token(scope))
            body = decode(decoder, (await receive())["body"])
            reply = await door.answer(services, caller, body)
        except FailedCall as failed:
            status, content, headers = render(failed)
            await send_response(status, content, headers | charge_headers(failed.charge), send)
        except TollkeeperError as error:
            status, content, headers = render(error)
            await send_response(status, content, headers, send)
        else:
            headers = {"Content-Type": "application/json"} | charge_headers(reply.charge)
            await send_response(200, self._encode(reply.body), headers, send)


def decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """The body in the door's shape. Raises InvalidJson, InvalidRequest, neither with anything of the input in it."""
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


def charge_headers(charge: Closed | None) -> Headers:
    """What every metered reply says of its charge and of the tightest quota."""
    if charge is None:
        return {}
    headers = {"X-Charge-ID": charge.charge_id}
    if (tight := tightest(charge.balances)) is not None:
        headers |= quota_headers(tight.quota, tight.limit, tight.remaining, tight.resets_ms)
    return headers


def tightest(balances: Sequence[Balance]) -> Balance | None:
    """The quota with the lowest remaining ÷ limit."""
    return min(balances, key=lambda balance: balance.remaining / balance.limit if balance.limit else 0, default=None)
