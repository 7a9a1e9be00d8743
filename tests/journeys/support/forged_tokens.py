"""Access tokens made without the product's code, valid ones and invalid ones of every kind."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

from journeys.support.server import SECRET
from tollkeeper.identity.tokens import key_id
from tollkeeper.principal import Principal

MISSING = object()
"""As the value of a claim or header field: the field is left out."""

_HASHES = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}


def claims_of(principal: Principal) -> dict[str, Any]:
    """The claims of a valid token."""
    now = int(time.time())
    return {
        "sub": str(principal.user_id),
        "tid": principal.tenant_id,
        "role": principal.role.value,
        "ver": principal.token_version,
        "typ": "access",
        "jti": "0" * 32,
        "iss": "tollkeeper",
        "aud": "tollkeeper",
        "iat": now,
        "exp": now + 600,
    }


def forge(
    principal: Principal,
    claims: Mapping[str, Any] | None = None,
    header: Mapping[str, Any] | None = None,
    *,
    secret: str = SECRET,
) -> str:
    """A signed token with the given claims and header fields replaced."""
    fields = {"alg": "HS256", "typ": "JWT", "kid": key_id(SECRET)} | dict(header or {})
    payload = claims_of(principal) | dict(claims or {})
    signed = ".".join(
        _part({name: value for name, value in one.items() if value is not MISSING}) for one in (fields, payload)
    )
    return f"{signed}.{_encode(_signature(str(fields['alg']), secret, signed))}"


def _signature(algorithm: str, secret: str, signed: str) -> bytes:
    if algorithm not in _HASHES:
        return b""
    return hmac.new(secret.encode(), signed.encode(), _HASHES[algorithm]).digest()


def _part(document: Mapping[str, Any]) -> str:
    return _encode(json.dumps(document).encode())


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
