"""ID tokens: which are accepted, and which claim, key or signature makes one refused."""

import base64
import json
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from tollkeeper.errors import SignOnRefused
from tollkeeper.identity.oidc.id_tokens import Expected, UnknownKey, verify

NOW_S = 1_800_000_000
EXPECTED = Expected("https://idp.example.com", "client", "nonce", frozenset({"RS256", "PS384", "ES256", "ES384"}))
RSA = RSAKey.generate_key(2048, {"kid": "rsa"})
EC = ECKey.generate_key("P-256", {"kid": "ec"})
CLAIMS: dict[str, Any] = {
    "iss": EXPECTED.issuer,
    "aud": "client",
    "sub": "ada",
    "nonce": "nonce",
    "iat": NOW_S,
    "exp": NOW_S + 60,
}
KEYS: dict[str, Any] = {"keys": [RSA.as_dict(private=False), EC.as_dict(private=False)]}


def make(claims: Any, key: RSAKey | ECKey = RSA, algorithm: str = "RS256", **header: Any) -> str:
    head = {"alg": algorithm, "kid": key.kid} | header
    return jws.serialize_compact(
        {name: head[name] for name in head if head[name] is not None}, claims, key, [algorithm]
    )


def token(key: RSAKey | ECKey = RSA, algorithm: str = "RS256", **changes: Any) -> str:
    claims = {name: value for name, value in (CLAIMS | changes).items() if value is not None}
    return make(json.dumps(claims), key, algorithm)


@pytest.mark.parametrize(("key", "algorithm"), [(RSA, "RS256"), (RSA, "PS384"), (EC, "ES256")])
def test_a_token_that_is_signed_with_a_key_of_the_provider_is_accepted(key: RSAKey | ECKey, algorithm: str) -> None:
    assert verify(token(key, algorithm), KEYS, EXPECTED, NOW_S)["sub"] == "ada"


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ["client"]},
        {"aud": ["other", "client"], "azp": "client"},
        {"azp": "client"},
        {"exp": NOW_S - 59},
        {"exp": NOW_S + 0.5},
        {"iat": NOW_S + 60},
        {"sub": "x" * 255},
    ],
    ids=str,
)
def test_usual_variations_are_accepted(changes: dict[str, Any]) -> None:
    assert verify(token(**changes), KEYS, EXPECTED, NOW_S)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"iss": "https://idp.example.com/"}, "issuer"),
        ({"aud": "other"}, "client"),
        ({"aud": 7}, "client"),
        ({"aud": ["other", "client"]}, "client"),
        ({"azp": "other"}, "client"),
        ({"exp": NOW_S - 60}, "expired"),
        ({"exp": True}, "expired"),
        ({"exp": "1800000060"}, "expired"),
        ({"iat": NOW_S + 61}, "future"),
        ({"nonce": "other"}, "login"),
        ({"nonce": 7}, "login"),
        ({"sub": "ä"}, "user"),
        ({"sub": "a\nb"}, "user"),
        ({"sub": None}, "user"),
    ],
    ids=str,
)
def test_a_wrong_claim_is_named(changes: dict[str, Any], part: str) -> None:
    with pytest.raises(SignOnRefused, match=part):
        verify(token(**changes), KEYS, EXPECTED, NOW_S)


@pytest.mark.parametrize("payload", ["[]", "7", "{", "", '{"exp": 1e999}'])
def test_a_payload_that_is_no_object_of_claims_is_refused(payload: str) -> None:
    with pytest.raises(SignOnRefused):
        verify(make(payload), KEYS, EXPECTED, NOW_S)


def test_a_key_that_is_not_published_may_be_published_later() -> None:
    sets: list[dict[str, Any]] = [{"keys": []}, {}, {"keys": 7}, {"keys": [7]}, {"keys": [EC.as_dict(private=False)]}]
    for keys in sets:
        with pytest.raises(UnknownKey):
            verify(token(), keys, EXPECTED, NOW_S)


@pytest.mark.parametrize(
    "changes", [{"use": "enc"}, {"alg": "RS512"}, {"kty": "oct", "k": "eA"}, {"kid": "other"}], ids=str
)
def test_a_key_for_something_else_is_not_used(changes: dict[str, str]) -> None:
    with pytest.raises(UnknownKey):
        verify(token(), {"keys": [RSA.as_dict(private=False) | changes]}, EXPECTED, NOW_S)


@pytest.mark.parametrize(
    "changes",
    [
        {"n": "q" * 1_367},
        {"n": "q" * 340},
        {"n": None},
        {"n": 7},
        {"n": "+" * 400},
        {"e": "AQABAQABAQ"},
        {"e": ""},
    ],
    ids=lambda changes: str(changes)[:20],
)
def test_an_rsa_key_of_an_unusual_size_is_refused_before_it_is_used(changes: dict[str, Any]) -> None:
    with pytest.raises(SignOnRefused, match="key"):
        verify(token(), {"keys": [RSA.as_dict(private=False) | changes]}, EXPECTED, NOW_S)


def test_a_curve_of_another_algorithm_is_refused() -> None:
    with pytest.raises(SignOnRefused):
        verify(token(), {"keys": [RSA.as_dict(private=False) | {"e": None}]}, EXPECTED, NOW_S)
    other = ECKey.generate_key("P-384", {"kid": "ec"})
    with pytest.raises(SignOnRefused, match="key"):
        verify(token(EC, "ES256"), {"keys": [other.as_dict(private=False)]}, EXPECTED, NOW_S)


@pytest.mark.parametrize(
    "header",
    [{"alg": "none"}, {"alg": "HS256"}, {"alg": "RS512"}, {"alg": 7}, {"kid": None}, {"kid": 7}, {"crit": ["x"]}],
    ids=str,
)
def test_a_header_that_asks_for_something_else_is_refused(header: dict[str, Any]) -> None:
    honest = token().split(".")
    head = {"alg": "RS256", "kid": "rsa"} | header
    encoded = base64.urlsafe_b64encode(json.dumps(head).encode()).rstrip(b"=").decode()
    with pytest.raises(SignOnRefused):
        verify(".".join([encoded, *honest[1:]]), KEYS, EXPECTED, NOW_S)


@pytest.mark.parametrize("text", ["", "a.b", "a.b.c", "é.b.c", "a.b.c.d", "a" * 40_000 + ".b.c"])
def test_a_text_that_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(SignOnRefused):
        verify(text, KEYS, EXPECTED, NOW_S)
