"""Access tokens: JWT, HS256, with strict checks. Only this module imports python-jose.

By itself, python-jose accepts a token without `aud`, an unknown `crit`, and, with a mixed list of algorithms, a DER
public key as an HMAC secret (CVE-2024-33663 and issues 398, 419 of its tracker). Here each key has one algorithm.
"""

import base64
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
TOKEN_TYPE = "access"  # noqa: S105 - the value of a claim
MAX_TOKEN_LENGTH = 4096
MAX_CACHED_TOKENS = 10_000
MAX_ID = 2**31 - 1
"""The width of ids and token versions in the database. The claims that are times are compared to the clock instead."""

_REQUIRED = ("exp", "iat", "sub", "jti", "aud", "iss")
_HEADER_FIELDS = {"alg", "typ", "kid"}
_OPTIONS = {f"require_{claim}": True for claim in _REQUIRED} | {"leeway": 0}


class Tokens:
    """Issues and verifies access tokens. `secret` signs; `previous` is accepted too, so that secrets can be rotated.

    A verified token is cached by its SHA-256 until it expires. This is safe because the reserve transaction and
    `load_account` check what can change after it was issued: user, tenant, password, session.
    """

    def __init__(self, secret: str, *, previous: str | None = None, minutes: int, clock: Clock) -> None:
        self._lifetime_s = minutes * 60
        self._clock = clock
        self._key_id = key_id(secret)
        self._key = HMACKey(secret, ALGORITHM)
        self._keys = {key_id(old): HMACKey(old, ALGORITHM) for old in (previous,) if old} | {self._key_id: self._key}
        self._cached: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()

    @property
    def lifetime_s(self) -> int:
        """How long a token is valid after it was issued."""
        return self._lifetime_s

    def issue(self, caller: Principal) -> str:
        """Returns a new access token."""
        return self.issue_until(caller)[0]

    def issue_until(self, caller: Principal, until_s: int | None = None) -> tuple[str, int]:
        """Returns a new access token that ends at `until_s` at the latest, and its end, in seconds of the epoch."""
        now_s = self._clock.now_ms() // 1000
        ends_s = now_s + self._lifetime_s
        if until_s is not None:
            ends_s = min(ends_s, until_s)
        claims: dict[str, Any] = {
            "sub": str(caller.user_id),
            "tid": caller.tenant_id,
            "role": caller.role.value,
            "ver": caller.token_version,
            "auth_time": caller.authenticated_ms // 1000,
            "typ": TOKEN_TYPE,
            "jti": secrets.token_hex(16),
            "iss": ISSUER,
            "aud": AUDIENCE,
            "iat": now_s,
            "exp": ends_s,
        }
        if caller.session is not None:
            claims["sid"] = caller.session
        token: str = jwt.encode(claims, self._key, algorithm=ALGORITHM, headers={"kid": self._key_id})
        return token, ends_s

    def verify(self, token: str) -> Principal:
        """Returns the token's principal. Raises Unauthenticated, with one sentence for every reason."""
        try:
            digest = hashlib.sha256(token.encode()).digest()
        except UnicodeEncodeError:
            raise Unauthenticated from None
        now_s = self._clock.now_ms() / 1000
        if (cached := self._cached.get(digest)) is not None:
            principal, expires_s = cached
            if now_s < expires_s:
                return principal
            del self._cached[digest]
        principal, expires_s = self._verify(token, now_s)
        self._cached[digest] = principal, expires_s
        if len(self._cached) > MAX_CACHED_TOKENS:
            self._cached.popitem(last=False)
        return principal

    def _verify(self, token: str, now_s: float) -> tuple[Principal, float]:
        if len(token) > MAX_TOKEN_LENGTH or not _is_canonical(token):
            raise Unauthenticated
        try:
            key = self._key_of(jws.get_unverified_header(token))
            claims = jwt.decode(
                token, key, algorithms=[ALGORITHM], audience=AUDIENCE, issuer=ISSUER, options=dict(_OPTIONS)
            )
            return _principal(claims, now_s)
        except (JOSEError, AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
            raise Unauthenticated from None

    def _key_of(self, header: dict[str, Any]) -> HMACKey:
        """Returns the key that the header names. Raises ValueError for a header that is not one of ours, KeyError."""
        if header.keys() != _HEADER_FIELDS or header["alg"] != ALGORITHM or header["typ"] != "JWT":
            raise ValueError
        return self._keys[header["kid"]]


def _is_canonical(token: str) -> bool:
    """Whether the token is three parts in strict base64url, so that no other text passes for the token as issued.

    Python's decoder skips characters outside the alphabet and ignores trailing bits (RFC 4648, 3.3 and 3.5).
    """
    parts = token.split(".")
    if len(parts) != 3:
        return False
    try:
        return all(
            base64.urlsafe_b64encode(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))).rstrip(b"=").decode()
            == part
            for part in parts
        )
    except ValueError:
        return False


def key_id(secret: str) -> str:
    """Returns a name for a key, from which the key cannot be derived."""
    return hashlib.sha256(b"tollkeeper key id" + secret.encode()).hexdigest()[:16]


def _principal(claims: dict[str, Any], now_s: float) -> tuple[Principal, float]:
    """Returns the principal and the expiry, in seconds. Raises KeyError, TypeError or ValueError for invalid claims."""
    expires_s, version, tenant_id, subject = claims["exp"], claims["ver"], claims["tid"], claims["sub"]
    if not (subject.isascii() and subject.isdecimal()):
        raise ValueError
    user_id = int(subject)
    if claims["typ"] != TOKEN_TYPE or not isinstance(claims["jti"], str) or claims["aud"] != AUDIENCE:
        raise ValueError
    if any(type(number) is not int for number in (expires_s, claims["iat"], version, tenant_id)) or now_s >= expires_s:
        raise ValueError
    if not all(0 <= number <= MAX_ID for number in (version, tenant_id, user_id)):
        raise ValueError
    authenticated_s, session = claims.get("auth_time", 0), claims.get("sid")
    if type(authenticated_s) is not int or not isinstance(session, str | None):
        raise ValueError
    principal = Principal(
        user_id,
        tenant_id,
        Role(claims["role"]),
        version,
        session=session,
        authenticated_ms=authenticated_s * 1000,
    )
    return principal, float(expires_s)
