"""Authenticates a request by its bearer token. A token is accepted in one header only."""

from starlette.types import Scope

from tollkeeper.errors import Unauthenticated
from tollkeeper.identity.authenticator import Authenticator
from tollkeeper.principal import Access, Principal
from tollkeeper.throttle import Throttle

_HEADERS = (b"authorization", b"x-api-key")


def access_token(scope: Scope) -> str:
    """The token of the one Authorization header (RFC 6750), or of `x-api-key`, which Anthropic's clients send.

    Raises Unauthenticated if there is none, or more than one.
    """
    found: list[tuple[bytes, bytes]] = [field for field in scope["headers"] if field[0] in _HEADERS]
    if len(found) != 1:
        raise Unauthenticated
    name, token = found[0]
    if name == b"authorization":
        if token[:7].lower() != b"bearer ":
            raise Unauthenticated
        token = token[7:]
    try:
        return token.strip().decode("ascii")
    except UnicodeDecodeError:
        raise Unauthenticated from None


def client_address(scope: Scope) -> str:
    """The client's address; behind a trusted proxy, the one that the proxy has forwarded."""
    return scope["client"][0] if scope.get("client") else ""


async def authenticate(authenticator: Authenticator, throttle: Throttle, scope: Scope, access: Access) -> Principal:
    """Returns the principal of a request. Failures count against its address; good credentials pass all the same.

    Raises Unauthenticated, Forbidden, RateLimited, DatabaseUnavailable, Overloaded.
    """
    address = client_address(scope)
    try:
        credential = access_token(scope)
        if authenticator.costs_a_lookup(credential):
            throttle.check_failures(address)
        return await authenticator.verify(credential, access)
    except Unauthenticated:
        throttle.count_failure(address)
        raise
