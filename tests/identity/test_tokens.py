"""What a bearer token must be, and the attacks that must fail, by name."""

import base64
import json
import string
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from freezegun import freeze_time
from hypothesis import given, settings
from hypothesis import strategies as st
from jose import jwt

from support.depth import examples
from tollkeeper.clock import SystemClock
from tollkeeper.errors import Unauthenticated
from tollkeeper.identity.tokens import ALGORITHM, MAX_CACHED_TOKENS, MAX_TOKEN_LENGTH, Tokens, key_id
from tollkeeper.principal import Principal, Role

SECRET = "0123456789abcdef0123456789abcdef"
CALLER = Principal(7, 3, Role.MEMBER, 2)


def make(secret: str = SECRET, *, previous: str | None = None) -> Tokens:
    return Tokens(secret, previous=previous, minutes=15, clock=SystemClock())


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    good = {
        "sub": "7",
        "tid": 3,
        "role": "member",
        "ver": 2,
        "typ": "access",
        "jti": "x" * 32,
        "iss": "tollkeeper",
        "aud": "tollkeeper",
        "iat": now,
        "exp": now + 60,
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def signed(payload: dict[str, Any], *, headers: dict[str, Any] | None = None, secret: str = SECRET) -> str:
    token: str = jwt.encode(payload, secret, algorithm=ALGORITHM, headers={"kid": key_id(SECRET)} | (headers or {}))
    return token


def part(content: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


def refused(token: str) -> bool:
    """Whether the token is refused twice: a refusal must not be cached as anything else."""
    tokens = make()
    for _ in range(2):
        with pytest.raises(Unauthenticated) as raised:
            tokens.verify(token)
        assert raised.value.detail == Unauthenticated.sentence
    return True


def test_an_issued_token_authenticates_its_user() -> None:
    tokens = make()
    assert tokens.verify(tokens.issue(CALLER)) == CALLER


def test_the_unchanged_token_of_these_tests_is_valid() -> None:
    assert make().verify(signed(claims())) == CALLER


@pytest.mark.parametrize("claim", ["exp", "iat", "sub", "jti", "aud", "iss", "typ", "tid", "ver", "role"])
def test_every_claim_is_required(claim: str) -> None:
    assert refused(signed(claims(**{claim: None})))


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "other"},
        {"aud": ["tollkeeper", "other"]},
        {"iss": "other"},
        {"typ": "refresh"},
        {"exp": int(time.time()) - 1},
        {"exp": "4102444800"},
        {"exp": 4102444800.5},
        {"exp": True},
        {"iat": "1"},
        {"jti": 5},
        {"sub": "seven"},
        {"tid": "3"},
        {"tid": True},
        {"ver": 2.0},
        {"role": "emperor"},
    ],
)
def test_a_claim_of_the_wrong_value_or_type_is_refused(changes: dict[str, Any]) -> None:
    assert refused(signed(claims(**changes)))


def test_algorithm_none_is_refused() -> None:
    header = part({"alg": "none", "typ": "JWT", "kid": key_id(SECRET)})
    assert refused(f"{header}.{part(claims())}.")


def test_another_hmac_of_the_same_key_is_refused() -> None:
    token = jwt.encode(claims(), SECRET, algorithm="HS512", headers={"kid": key_id(SECRET)})
    assert refused(token)


def test_a_der_public_key_is_never_an_hmac_secret() -> None:
    """CVE-2024-33663 and what it left open: the attacker signs with a public key as if it were the shared secret."""
    public = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    token = jwt.encode(claims(), base64.b64encode(der).decode(), algorithm=ALGORITHM, headers={"kid": key_id(SECRET)})
    assert refused(token)


def test_an_unknown_crit_is_refused() -> None:
    assert refused(signed(claims(), headers={"crit": ["exp"]}))


def test_an_unknown_or_missing_key_id_is_refused() -> None:
    assert refused(signed(claims(), headers={"kid": "other"}))
    assert refused(jwt.encode(claims(), SECRET, algorithm=ALGORITHM))
    assert refused(signed(claims(), headers={"kid": ["a"]}))


def test_a_token_that_is_too_long_is_refused_unread() -> None:
    assert refused(signed(claims(jti="x" * MAX_TOKEN_LENGTH)))
    assert refused("x" * 100_000)


def test_a_compressed_or_encrypted_token_is_refused() -> None:
    assert refused(f"{part({'alg': 'dir', 'enc': 'A256GCM', 'zip': 'DEF'})}.a.b.c.d")


def test_a_forged_signature_is_refused() -> None:
    assert refused(signed(claims(), secret="f" * 32))
    good = signed(claims())
    assert refused(good[:-2] + ("AA" if good[-2:] != "AA" else "BB"))


def test_a_nested_header_is_refused() -> None:
    assert refused(f"{part([[[[]]]])}.{part(claims())}.x")
    assert refused(f"{part('text')}.{part(claims())}.x")


@settings(max_examples=examples(200), deadline=None)
@given(st.text(max_size=200))
def test_no_text_is_anything_but_refused(text: str) -> None:
    with pytest.raises(Unauthenticated):
        make().verify(text)


def test_a_cached_token_is_refused_when_it_expires() -> None:
    tokens = make()
    with freeze_time("2026-01-01T00:00:00Z", real_asyncio=True) as frozen:
        token = tokens.issue(CALLER)
        assert tokens.verify(token) == CALLER
        frozen.tick(15 * 60 - 1)
        assert tokens.verify(token) == CALLER
        frozen.tick(1)
        with pytest.raises(Unauthenticated):
            tokens.verify(token)


def test_the_token_cache_is_bounded() -> None:
    tokens = make()
    first = tokens.issue(CALLER)
    tokens.verify(first)
    tokens._cached.update({bytes([0]) + number.to_bytes(4): (CALLER, 0.0) for number in range(MAX_CACHED_TOKENS)})
    tokens.verify(tokens.issue(CALLER))
    assert len(tokens._cached) <= MAX_CACHED_TOKENS + 1


def test_the_previous_secret_is_accepted_only_while_rotating() -> None:
    old, new = SECRET, "fedcba9876543210fedcba9876543210"
    token = make(old).issue(CALLER)
    assert make(new, previous=old).verify(token) == CALLER
    with pytest.raises(Unauthenticated):
        make(new).verify(token)


def test_a_token_does_not_contain_the_secret_or_the_key() -> None:
    token = make().issue(CALLER)
    header, payload, _ = token.split(".")
    for shown in (header, payload):
        assert SECRET.encode() not in base64.urlsafe_b64decode(shown + "==")


def test_no_other_text_passes_for_a_token() -> None:
    """Decoders that skip foreign characters, or ignore trailing bits, would accept many texts for one token."""
    token = signed(claims())
    assert make().verify(token) == CALLER
    head, payload, signature = token.split(".")
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
    same_bits = signature[:-1] + alphabet[alphabet.index(signature[-1]) ^ 1]
    for other in (
        f"{head}.{payload}.{signature}=",
        f"{head}.{payload}.{signature[:10]}\n{signature[10:]}",
        f"{head}.{payload}.{same_bits}",
        f"{head}!.{payload}.{signature}",
        f"{token}.",
        f" {token}",
    ):
        assert refused(other), other


@pytest.mark.parametrize("header", [{"cty": "x"}, {"jku": "https://example.com"}, {"typ": "at+jwt"}, {"crit": ["exp"]}])
def test_a_header_with_other_fields_than_ours_is_refused(header: dict[str, Any]) -> None:
    assert refused(signed(claims(), headers=header))


@pytest.mark.parametrize("subject", ["\u0667", "+7", " 7", "7_0", "07x", ""])
def test_a_subject_that_is_not_plain_digits_is_refused(subject: str) -> None:
    """Python's int() reads more than a user id: other digits, signs, spaces, underscores."""
    assert refused(signed(claims(sub=subject)))
