"""Bearer tokens: JWT, HS256, behind one strict wrapper. The only importer of python-jose.

python-jose alone accepts a token without `aud`, an unknown `crit`, and, with a mixed list of algorithms, a DER public
key as an HMAC secret (CVE-2024-33663 and issues 398, 419 of its tracker). Here one key has one algorithm.
"""

import hashlib
import secrets
from collections import OrderedDict
from typing import Any

from jose import jws, jwt
from jose.backends import HMACKey
from jose.exceptions import JOSEError

from tollkeeper.clock import Clock
from tollkeeper.errors import Unauthenticated
from tollkeeper.principal import Principal, Role

ALGORITHM = "HS256"
ISSUER = AUDIENCE = "tollkeeper"
ACCESS = "access"
MAX_TOKEN_LENGTH = 4096
MAX_REMEMBERED = 10_000
MAX_NUMBER = 2**31
"""Ids are that wide in the database. Moments are compared on their own."""

_REQUIRED = ("exp", "iat", "sub", "jti", "aud", "iss")
_OPTIONS = {f"require_{claim}": True for claim in _REQUIRED} | {"leeway": 0}


class Tokens:
    """Makes and checks access tokens. `secret` signs; `previous` is still accepted, so that secrets can be rotated.

    A verified token is remembered under its full hash until it expires. That is safe because what can change after it
    was issued (user, tenant, password) is checked by the reserve transaction and by the account look-up, not here.
    """

    def __init__(self, secret: str, *, previous: str | None = None, minutes: int, clock: Clock) -> None:
        self._seconds = minutes * 60
        self._clock = clock
        self._key_id = key_id(secret)
        self._key = HMACKey(secret, ALGORITHM)
        self._keys = {key_id(old): HMACKey(old, ALGORITHM) for old in (previous,) if old} | {self._key_id: self._key}
        self._remembered: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()

    @property
    def seconds(self) -> int:
        """How long a token is good."""
        return self._seconds

    def issue(self, caller: Principal) -> str:
        """A new access token."""
        now = self._clock.now_ms() // 1000
        claims = {
            "sub": str(caller.user_id),
            "tid": caller.tenant_id,
            "role": caller.role.value,
            "ver": caller.token_version,
            "typ": ACCESS,
            "jti": secrets.token_hex(16),
            "iss": ISSUER,
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + self._seconds,
        }
        token: str = jwt.encode(claims, self._key, algorithm=ALGORITHM, headers={"kid": self._key_id})
        return token

    def verify(self, token: str) -> Principal:
        """Who the token speaks for. Raises Unauthenticated, with one sentence for every reason."""
        try:
            digest = hashlib.sha256(token.encode()).digest()
        except UnicodeEncodeError:
            raise Unauthenticated from None
        now_s = self._clock.now_ms() / 1000
        if (known := self._remembered.get(digest)) is not None:
            principal, expires_s = known
            if now_s < expires_s:
                return principal
            del self._remembered[digest]
        principal, expires_s = self._verify(token, now_s)
        self._remembered[digest] = principal, expires_s
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return principal

    def _verify(self, token: str, now_s: float) -> tuple[Principal, float]:
        if len(token) > MAX_TOKEN_LENGTH:
            raise Unauthenticated
        try:
            key = self._key_of(jws.get_unverified_header(token))
            claims = jwt.decode(
                token, key, algorithms=[ALGORITHM], audience=AUDIENCE, issuer=ISSUER, options=dict(_OPTIONS)
            )
            return _principal(claims, now_s)
        except (JOSEError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
            raise Unauthenticated from None

    def _key_of(self, header: dict[str, Any]) -> HMACKey:
        """The key that the header names, if the header asks for nothing unusual. Raises KeyError, ValueError."""
        if header.get("alg") != ALGORITHM or "crit" in header:
            raise ValueError
        return self._keys[header["kid"]]


def key_id(secret: str) -> str:
    """A name for a key that says nothing about it."""
    return hashlib.sha256(b"tollkeeper key id" + secret.encode()).hexdigest()[:16]


def _principal(claims: dict[str, Any], now_s: float) -> tuple[Principal, float]:
    """Raises KeyError, TypeError or ValueError for claims that are not ours."""
    expires_s, version, tenant_id, user_id = claims["exp"], claims["ver"], claims["tid"], int(claims["sub"])
    if claims["typ"] != ACCESS or not isinstance(claims["jti"], str) or claims["aud"] != AUDIENCE:
        raise ValueError
    if any(type(number) is not int for number in (expires_s, claims["iat"], version, tenant_id)) or now_s >= expires_s:
        raise ValueError
    if not all(0 <= number < MAX_NUMBER for number in (version, tenant_id, user_id)):
        raise ValueError
    return Principal(user_id, tenant_id, Role(claims["role"]), version), float(expires_s)
