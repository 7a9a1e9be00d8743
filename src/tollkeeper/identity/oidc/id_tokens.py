"""Verifies ID tokens (OpenID Connect Core 1.0, 3.1.3.7). Only this module imports joserfc.

The key is built from the public part of the one JSON Web Key that the token names, and only for the kind of key that
the algorithm needs: a public key never becomes the secret of an HMAC.
"""

import hmac
import math
import re
from dataclasses import dataclass
from typing import Any

import orjson

from tollkeeper.errors import SignOnRefused

MAX_TOKEN_LENGTH, MAX_HEADER_LENGTH = 32 * 1024, 4_096
MAX_KEYS = 100
MAX_SUBJECT_LENGTH = 255
"""OpenID Connect Core 1.0, section 2."""
LEEWAY_S = 60
"""How far the clocks of provider and server may be apart."""
MIN_MODULUS_DIGITS, MAX_MODULUS_DIGITS = 341, 1_366
"""Of an RSA key of 2,048 and of 8,192 bits, in base64url. A greater key would take seconds."""
MAX_EXPONENT_DIGITS = 6

_KEY_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC"}
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
ALGORITHMS = frozenset(f"{family}{bits}" for family in _KEY_TYPES for bits in (256, 384, 512))
"""All are asymmetric."""
_PUBLIC_FIELDS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y")}
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")


class UnknownKey(Exception):
    """The key set does not have the key that the token names. The provider may have a new one."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What an ID token must say. `algorithms` are those that the provider's discovery document names."""

    issuer: str
    client_id: str
    nonce: str
    algorithms: frozenset[str]


def verify(token: str, keys: dict[str, Any], expected: Expected, now_s: float) -> dict[str, Any]:
    """Returns the claims of a token that is signed with one of the keys (RFC 7517, section 5).

    Raises SignOnRefused, whose sentence says what is wrong; UnknownKey.
    """
    if len(token) > MAX_TOKEN_LENGTH or not token.isascii() or token.count(".") != 2:
        raise SignOnRefused("The identity provider sent no valid ID token.")
    from joserfc import jws  # 2 MB, for single sign-on only
    from joserfc.errors import JoseError
    from joserfc.jwk import import_key

    registry = jws.JWSRegistry(algorithms=sorted(ALGORITHMS), strict_check_header=False)
    registry.max_header_length = MAX_HEADER_LENGTH
    try:
        header = jws.extract_compact(token.encode(), registry=registry).headers()
        algorithm, key_id = header["alg"], header.get("kid")
        if algorithm not in ALGORITHMS & expected.algorithms:
            raise SignOnRefused("The ID token is not signed with an algorithm that is accepted.")
        key = import_key(_find_key(keys, key_id, algorithm))
        payload = jws.deserialize_compact(token, key, [algorithm], registry).payload
        claims = orjson.loads(payload or b"")
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        raise SignOnRefused("The ID token's signature is not valid.") from None
    if not isinstance(claims, dict):
        raise SignOnRefused("The ID token has no claims.")
    _check(claims, expected, now_s)
    return claims


def _find_key(keys: dict[str, Any], key_id: object, algorithm: str) -> dict[str, Any]:
    """The public part of the key. Raises SignOnRefused, UnknownKey."""
    if not isinstance(key_id, str) or not key_id:
        raise SignOnRefused("The ID token does not name its key.")
    found = keys.get("keys")
    listed = found[:MAX_KEYS] if isinstance(found, list) else []
    kind = _KEY_TYPES[algorithm[:2]]
    for key in listed:
        if not isinstance(key, dict) or key.get("kid") != key_id or key.get("kty") != kind:
            continue
        if key.get("use", "sig") != "sig" or key.get("alg", algorithm) != algorithm:
            continue
        public = {name: key.get(name) for name in _PUBLIC_FIELDS[kind]}
        if not _is_reasonable(public, algorithm):
            raise SignOnRefused("The identity provider's key is not one that is accepted.")
        return public | {"kty": kind}
    raise UnknownKey


def _is_reasonable(public: dict[str, Any], algorithm: str) -> bool:
    """Whether the key has a usual size: those of RSA decide how long a verification takes."""
    if not all(
        isinstance(value, str) and _BASE64URL.fullmatch(value) for value in public.values() if value is not None
    ):
        return False
    if algorithm in _CURVES:
        return bool(public["crv"] == _CURVES[algorithm])
    modulus, exponent = public["n"] or "", public["e"] or ""
    return MIN_MODULUS_DIGITS <= len(modulus) <= MAX_MODULUS_DIGITS and 0 < len(exponent) <= MAX_EXPONENT_DIGITS


def _check(claims: dict[str, Any], expected: Expected, now_s: float) -> None:
    """Raises SignOnRefused for the first claim that is wrong."""
    if claims.get("iss") != expected.issuer:
        raise SignOnRefused("The ID token is from another issuer.")
    audience, party = claims.get("aud"), claims.get("azp")
    audiences = [audience] if isinstance(audience, str) else audience
    if not isinstance(audiences, list) or expected.client_id not in audiences:
        raise SignOnRefused("The ID token is for another client.")
    if (party is not None or len(audiences) > 1) and party != expected.client_id:
        raise SignOnRefused("The ID token was issued to another client.")
    if not _is_time(claims.get("exp")) or claims["exp"] <= now_s - LEEWAY_S:
        raise SignOnRefused("The ID token has expired. Check the clocks of the identity provider and of this server.")
    if not _is_time(claims.get("iat")) or claims["iat"] > now_s + LEEWAY_S:
        raise SignOnRefused(
            "The ID token is from the future. Check the clocks of the identity provider and this server."
        )
    nonce = claims.get("nonce")
    if not isinstance(nonce, str) or not hmac.compare_digest(nonce.encode(), expected.nonce.encode()):
        raise SignOnRefused("The ID token is not for this login.")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not is_subject(subject):
        raise SignOnRefused("The ID token does not name the user.")


def is_subject(subject: str) -> bool:
    """Whether the text can be a subject: ASCII, printable, not too long."""
    return 0 < len(subject) <= MAX_SUBJECT_LENGTH and subject.isascii() and subject.isprintable()


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
