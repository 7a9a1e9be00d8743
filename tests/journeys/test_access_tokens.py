"""Who has no good token is told so in one and the same way, at every door, and nothing is charged."""

import base64
import json
from collections.abc import Callable

from journeys.support.forged_tokens import MISSING, claims_of, forge
from journeys.support.raw_http import Raw, exchange, request
from journeys.support.server import Server
from journeys.support.users import Person, person
from journeys.upstream.handle import Upstream
from tollkeeper.identity.tokens import key_id

PROMPT = "asked-without-a-good-token"
CORRELATION = {"X-Correlation-ID": "the-same-for-all"}
CLAIMS = ("sub", "tid", "role", "ver", "typ", "jti", "iss", "aud", "iat", "exp")
OTHER_SECRET = "another-secret-of-good-length-0123456789"


def _tampered(caller: Person) -> str:
    header, _, signature = caller.token.split(".")
    said = claims_of(caller.principal) | {"role": "operator"}
    payload = base64.urlsafe_b64encode(json.dumps(said).encode()).rstrip(b"=").decode()
    return f"{header}.{payload}.{signature}"


def _one_letter_changed(caller: Person) -> str:
    head, changed, last = caller.token[:-2], caller.token[-2], caller.token[-1]
    return head + ("A" if changed != "A" else "B") + last


def _without(claim: str) -> Callable[[Person], str]:
    return lambda caller: forge(caller.principal, {claim: MISSING})


BAD_TOKENS: dict[str, Callable[[Person], str]] = {
    "empty": lambda _: "",
    "a word": lambda _: "token",
    "two dots": lambda _: "..",
    "100 KB": lambda caller: caller.token + "A" * 100_000,
    "100 KB of claims": lambda caller: forge(caller.principal, {"x": "y" * 100_000}),
    "cut off": lambda caller: caller.token[:-1],
    "one letter changed": _one_letter_changed,
    "without its signature": lambda caller: caller.token.rpartition(".")[0] + ".",
    "claims changed": _tampered,
    "five parts": lambda caller: caller.token + ".x.y",
    "two tokens": lambda caller: f"{caller.token} {caller.token}",
    "another secret": lambda caller: forge(caller.principal, secret=OTHER_SECRET),
    "another secret under its own id": lambda caller: forge(
        caller.principal, header={"kid": key_id(OTHER_SECRET)}, secret=OTHER_SECRET
    ),
    "the empty secret": lambda caller: forge(caller.principal, secret=""),
    "alg none": lambda caller: forge(caller.principal, header={"alg": "none"}),
    "alg None": lambda caller: forge(caller.principal, header={"alg": "None"}),
    "alg HS512": lambda caller: forge(caller.principal, header={"alg": "HS512"}),
    "alg RS256": lambda caller: forge(caller.principal, header={"alg": "RS256"}),
    "alg a list": lambda caller: forge(caller.principal, header={"alg": ["HS256"]}),
    "no alg": lambda caller: forge(caller.principal, header={"alg": MISSING}),
    "no kid": lambda caller: forge(caller.principal, header={"kid": MISSING}),
    "a kid that is a path": lambda caller: forge(caller.principal, header={"kid": "../../dev/null"}),
    "a kid that is a list": lambda caller: forge(caller.principal, header={"kid": [key_id(OTHER_SECRET)]}),
    "crit": lambda caller: forge(caller.principal, header={"crit": ["exp"]}),
    "an unknown crit": lambda caller: forge(caller.principal, header={"crit": ["b64"], "b64": False}),
    "expired": lambda caller: forge(caller.principal, {"exp": 1_700_000_000}),
    "expired just now": lambda caller: forge(caller.principal, {"exp": claims_of(caller.principal)["iat"] - 1}),
    "exp a text": lambda caller: forge(caller.principal, {"exp": "9999999999"}),
    "exp a fraction": lambda caller: forge(caller.principal, {"exp": 9999999999.5}),
    "exp true": lambda caller: forge(caller.principal, {"exp": True}),
    "exp negative": lambda caller: forge(caller.principal, {"exp": -1}),
    "exp beyond everything": lambda caller: forge(caller.principal, {"exp": 10**400}),
    "another audience": lambda caller: forge(caller.principal, {"aud": "elsewhere"}),
    "several audiences": lambda caller: forge(caller.principal, {"aud": ["tollkeeper", "elsewhere"]}),
    "another issuer": lambda caller: forge(caller.principal, {"iss": "elsewhere"}),
    "another type": lambda caller: forge(caller.principal, {"typ": "refresh"}),
    "not good before tomorrow": lambda caller: forge(caller.principal, {"nbf": 9_999_999_999}),
    "sub no number": lambda caller: forge(caller.principal, {"sub": "1 OR 1=1"}),
    "sub a number": lambda caller: forge(caller.principal, {"sub": caller.principal.user_id}),
    "sub in other digits": lambda caller: forge(caller.principal, {"sub": "٣"}),
    "sub nobody": lambda caller: forge(caller.principal, {"sub": "999999"}),
    "sub beyond 64 bits": lambda caller: forge(caller.principal, {"sub": str(2**70)}),
    "sub negative": lambda caller: forge(caller.principal, {"sub": "-1"}),
    "another tenant": lambda caller: forge(caller.principal, {"tid": caller.principal.tenant_id + 1}),
    "tenant beyond 64 bits": lambda caller: forge(caller.principal, {"tid": 2**70}),
    "tenant a text": lambda caller: forge(caller.principal, {"tid": str(caller.principal.tenant_id)}),
    "a version to come": lambda caller: forge(caller.principal, {"ver": 1}),
    "version true": lambda caller: forge(caller.principal, {"ver": True}),
    "an unknown role": lambda caller: forge(caller.principal, {"role": "root"}),
    "role a list": lambda caller: forge(caller.principal, {"role": ["member"]}),
    "jti a number": lambda caller: forge(caller.principal, {"jti": 1}),
    **{f"no {claim}": _without(claim) for claim in CLAIMS},
}  # fmt: skip

BAD_HEADERS: dict[str, bytes] = {
    "none": b"",
    "no scheme": b"Authorization: %b\r\n",
    "another scheme": b"Authorization: Basic %b\r\n",
    "only the scheme": b"Authorization: Bearer\r\n",
    "only the scheme and a blank": b"Authorization: Bearer \r\n",
    "in the wrong header": b"X-Authorization: Bearer %b\r\n",
    "in a cookie": b"Cookie: access_token=%b\r\n",
    "not ASCII": "Authorization: Bearer ą\r\n".encode(),
    "not UTF-8": b"Authorization: Bearer \xff\xfe\xe9\r\n",
    "twice": b"Authorization: Bearer %b\r\nAuthorization: Bearer %b\r\n",
    "a good one after a bad one": b"Authorization: Bearer x\r\nAuthorization: Bearer %b\r\n",
    "a bad one after a good one": b"Authorization: Bearer %b\r\nAuthorization: Bearer x\r\n",
}


async def test_the_tokens_made_by_hand_here_are_good_but_for_what_is_changed(server: Server) -> None:
    async with person(server) as caller:
        header = f"Authorization: Bearer {forge(caller.principal)}\r\n".encode()
        answers = await _at_each_door(server, header)
    assert [raw.status for raw in answers] == [200, 200]


async def test_a_bad_token_opens_nothing_and_hears_what_all_others_hear(server: Server, upstream: Upstream) -> None:
    async with person(server) as caller:
        headers = {name: f"Authorization: Bearer {bad(caller)}\r\n".encode() for name, bad in BAD_TOKENS.items()}
        await _assert_all_are_refused_alike(server, upstream, caller, headers)


async def test_a_token_anywhere_but_in_the_one_header_opens_nothing(server: Server, upstream: Upstream) -> None:
    async with person(server) as caller:
        token = caller.token.encode()
        headers = {name: header.replace(b"%b", token) for name, header in BAD_HEADERS.items()}
        await _assert_all_are_refused_alike(server, upstream, caller, headers)


async def _assert_all_are_refused_alike(
    server: Server, upstream: Upstream, caller: Person, headers: dict[str, bytes]
) -> None:
    heard_before = len(upstream.seen(PROMPT))
    answers = {name: await _at_each_door(server, header) for name, header in headers.items()}
    opened = {name: raw for name, both in answers.items() for raw in both if raw.status != 401}
    assert opened == {}
    said = {(raw.body, raw.headers["www-authenticate"]) for both in answers.values() for raw in both}
    assert len(said) == 1, said
    assert next(iter(answers.values()))[0].problem["code"] == "unauthenticated"
    assert await caller.charges() == []
    assert len(upstream.seen(PROMPT)) == heard_before


async def _at_each_door(server: Server, header: bytes) -> list[Raw]:
    """What an ordinary route and a metered door say to this Authorization header."""
    reading = request("GET", "/me", b"", CORRELATION, raw_headers=header)
    asking = request("POST", "/ai/query", json.dumps({"prompt": PROMPT}).encode(), CORRELATION, raw_headers=header)
    return [await exchange(server.port, data) for data in (reading, asking)]
