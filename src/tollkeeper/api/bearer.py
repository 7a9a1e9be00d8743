"""Authenticates a request by its credential, in `Authorization` or `x-api-key`. Some clients send both headers."""

from starlette.types import Scope

from tollkeeper.errors import Overloaded, RateLimited, Unauthenticated
from tollkeeper.identity.authenticator import Authenticator
from tollkeeper.identity.keys import PREFIX
from tollkeeper.principal import Access, Principal
from tollkeeper.rate_limits.throttle import Throttle

_HEADERS = (b"authorization", b"x-api-key")


def credentials_of(scope: Scope) -> list[str]:
    """The bearer token of `Authorization` (RFC 6750), then the value of `x-api-key`; two equal ones are one credential.

    Raises Unauthenticated if there is none in a valid form, or if a header is sent twice.
    """
    found: list[tuple[bytes, bytes]] = [field for field in scope["headers"] if field[0] in _HEADERS]
    if len({name for name, _ in found}) < len(found):
        raise Unauthenticated
    credentials = list(dict.fromkeys(credential for field in sorted(found) if (credential := _credential(*field))))
    if not credentials:
        raise Unauthenticated
    return credentials


def _credential(name: bytes, value: bytes) -> str:
    """The credential in a header; empty if its form is not valid."""
    if name == b"authorization":
        if value[:7].lower() != b"bearer ":
            return ""
        value = value[7:]
    return value.strip().decode("ascii") if value.isascii() else ""


def client_address(scope: Scope) -> str:
    """The client's address; behind a trusted proxy, the one that the proxy has forwarded."""
    return scope["client"][0] if scope.get("client") else ""


async def authenticate(authenticator: Authenticator, throttle: Throttle, scope: Scope, access: Access) -> Principal:
    """Returns the principal of a request. Wrong credentials count against its address; good ones pass all the same.

    Raises Unauthenticated, Forbidden, RateLimited, DatabaseUnavailable, Overloaded.
    """
    address = client_address(scope)
    credentials: list[str] = []
    try:
        credentials = credentials_of(scope)
        if len(credentials) > 1:
            return await _verify_both(authenticator, throttle, address, credentials, access)
        if authenticator.costs_a_lookup(credentials[0]):
            await throttle.check_failures(address)
        return await authenticator.verify(credentials[0], access, address)
    except Unauthenticated:
        if any(credentials):
            await throttle.count_failure(address)
        raise


async def _verify_both(
    authenticator: Authenticator, throttle: Throttle, address: str, credentials: list[str], access: Access
) -> Principal:
    """The principal of two different credentials: that of the valid one, or of the first if both are the same user's.

    A wrong credential beside a valid one counts as a failure if its form is that of a credential of this server; else
    a caller with one key could guess others. Raises as `authenticate` does.
    """
    callers: list[Principal] = []
    refusal: RateLimited | Overloaded | None = None
    for credential in credentials:
        try:
            if authenticator.costs_a_lookup(credential):
                await throttle.check_failures(address)
            callers.append(await authenticator.verify(credential, access, address))
        except Unauthenticated:
            if _is_well_formed(credential):
                refusal = await _count_failure(throttle, address) or refusal
        except (RateLimited, Overloaded) as error:  # this credential is not looked up; the other one may be valid
            refusal = error
    if len({(caller.tenant_id, caller.user_id) for caller in callers}) > 1:
        raise Unauthenticated
    if callers:
        return callers[0]
    raise refusal or Unauthenticated()


def _is_well_formed(credential: str) -> bool:
    """Whether a credential could be an API key or an access token of this server."""
    return credential.startswith(PREFIX) or credential.count(".") == 2  # a JSON Web Token has three parts


async def _count_failure(throttle: Throttle, address: str) -> RateLimited | None:
    """Count a failed authentication. Returns the refusal if there are too many."""
    try:
        await throttle.count_failure(address)
    except RateLimited as error:
        return error
    return None
