"""Authenticates the client of a WebSocket: by the headers of its handshake, or by its first frame."""

from collections.abc import Collection
from urllib.parse import urlsplit

from fastapi import WebSocket
from starlette.types import Scope

from tollkeeper.api.bearer import authenticate, client_address, credentials_of
from tollkeeper.api.dependencies import Services
from tollkeeper.api.native.socket_frames import read_token
from tollkeeper.errors import InvalidJson, TollkeeperError, Unauthenticated
from tollkeeper.principal import Access, Principal

MAX_AUTH_FRAME_BYTES = 32 * 1024


def origin_is_allowed(websocket: WebSocket, allowed: Collection[str]) -> bool:
    """Browsers send a page's origin: it must be this server's own or an allowed one. Other clients send none."""
    origin = websocket.headers.get("origin")
    if origin is None or origin in allowed:
        return True
    return urlsplit(origin).netloc == websocket.headers.get("host")


async def authenticate_handshake(services: Services, scope: Scope) -> tuple[str, Principal | None]:
    """The credential of a handshake, and its principal; an empty one and None if the first frame has to authenticate.

    The rules are those of HTTP requests, but for an `Authorization` of another scheme: a browser sends `Basic` to the
    proxy in front of this server. Raises as `bearer.authenticate` does.
    """
    if not any(_is_credential(name, value) for name, value in scope["headers"]):
        return "", None
    caller = await authenticate(services.authenticator, services.throttle, scope, Access.AI)
    *others, last = credentials_of(scope)
    for credential in others:  # a client may send a valid and another credential
        try:
            if await services.authenticator.verify(credential, Access.AI, client_address(scope)) == caller:
                return credential, caller
        except Unauthenticated:
            continue
    return last, caller


async def authenticate_frame(services: Services, scope: Scope, token: str) -> Principal:
    """The principal of the token in a first frame. A failure counts against the client's address.

    Raises Unauthenticated, Forbidden, RateLimited, DatabaseUnavailable, Overloaded.
    """
    address = client_address(scope)
    try:
        if services.authenticator.costs_a_lookup(token):
            await services.throttle.check_failures(address)
        return await services.authenticator.verify(token, Access.AI, address)
    except Unauthenticated:
        await services.throttle.count_failure(address)
        raise


async def repeats_authentication(services: Services, scope: Scope, frame: bytes, caller: Principal) -> bool:
    """Whether a first frame authenticates the caller of the handshake once more, which changes nothing.

    Raises Unauthenticated if it authenticates no user, or another one.
    """
    if len(frame) > MAX_AUTH_FRAME_BYTES:
        return False
    try:
        token = read_token(frame)
    except InvalidJson:
        return False
    try:
        repeated = await authenticate_frame(services, scope, token)
    except TollkeeperError:
        raise Unauthenticated from None
    if (repeated.tenant_id, repeated.user_id) != (caller.tenant_id, caller.user_id):
        raise Unauthenticated
    return True


def _is_credential(name: bytes, value: bytes) -> bool:
    return name == b"x-api-key" or (name == b"authorization" and value[:7].lower() == b"bearer ")
