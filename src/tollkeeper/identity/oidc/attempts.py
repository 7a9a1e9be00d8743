"""A single sign-on on its way: what the browser keeps, encrypted, between its start and the provider's answer."""

import base64
import hashlib
import hmac
import secrets

import msgspec
from sqlalchemy.exc import IntegrityError
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.encryption.data_keys import DataKeys, Purpose
from tollkeeper.errors import SealBroken, SignOnRefused
from tollkeeper.identity.models import UsedOidcState

LIFETIME_S = 600
MAX_COOKIE_LENGTH = 4_000
RANDOM_BYTES = 32
_PLACE = "cookie of a single sign-on"


class Attempt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The secrets of one attempt. It is bound to the provider's configuration at its start.

    `as_cookie`: at the end, the refresh token is put into a cookie. `is_fresh`: the person has to prove anew who they
    are, even if they are logged in at the provider. `to_console`: the browser goes to the console at the end.
    """

    provider: str
    issuer: str
    client_id: str
    state: str
    nonce: str
    verifier: str
    started_ms: int
    as_cookie: bool = False
    is_fresh: bool = False
    to_console: bool = False

    @property
    def challenge(self) -> str:
        """The S256 challenge of the verifier (RFC 7636, 4.2)."""
        return _base64url(hashlib.sha256(self.verifier.encode()).digest())

    def has_state(self, state: str) -> bool:
        """Whether the state is this attempt's."""
        return hmac.compare_digest(state.encode(), self.state.encode())


def begin(
    provider: str,
    issuer: str,
    client_id: str,
    now_ms: int,
    *,
    as_cookie: bool = False,
    is_fresh: bool = False,
    to_console: bool = False,
) -> Attempt:
    """A new attempt, with random secrets of 256 bits."""
    state, nonce, verifier = (_base64url(secrets.token_bytes(RANDOM_BYTES)) for _ in range(3))
    return Attempt(provider, issuer, client_id, state, nonce, verifier, now_ms, as_cookie, is_fresh, to_console)


def seal(keys: DataKeys, attempt: Attempt) -> str:
    """The value of the browser's cookie."""
    return _base64url(keys.seal(Purpose.IDENTITY, msgspec.json.encode(attempt), _PLACE))


def unseal(keys: DataKeys, cookie: str | None, now_ms: int) -> Attempt:
    """The attempt of a cookie that this installation has made not too long ago. Raises SignOnRefused."""
    if not cookie or len(cookie) > MAX_COOKIE_LENGTH or not cookie.isascii():
        raise SignOnRefused("This browser has not started a single sign-on, or its cookie is gone. Start again.")
    try:
        sealed = base64.urlsafe_b64decode(cookie + "=" * (-len(cookie) % 4))
        attempt = msgspec.json.decode(keys.unseal(Purpose.IDENTITY, sealed, _PLACE), type=Attempt)
    except (SealBroken, ValueError, msgspec.MsgspecError):
        raise SignOnRefused from None
    if not 0 <= now_ms - attempt.started_ms < LIFETIME_S * 1000:
        raise SignOnRefused("The single sign-on took too long. Start again.")
    return attempt


async def use_once(session: AsyncSession, attempt: Attempt) -> None:
    """Store that the attempt's state is used. Raises SignOnRefused if it was used before."""
    state_hash = hashlib.sha256(attempt.state.encode()).hexdigest()
    session.add(UsedOidcState(state_hash=state_hash, expires_ms=attempt.started_ms + LIFETIME_S * 1000))
    try:
        await session.flush()
    except IntegrityError:
        raise SignOnRefused("This single sign-on has ended before. Start again.") from None


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
