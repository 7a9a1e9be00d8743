"""Reads the access token of a request. A token is accepted in one header only."""

from starlette.types import Scope

from tollkeeper.errors import Unauthenticated

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
