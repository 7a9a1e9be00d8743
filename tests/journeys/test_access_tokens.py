"""Invalid access tokens: each gets the same response on every endpoint, and nothing is charged."""

import base64
import json
from collections.abc import Callable

from journeys.support.forged_tokens import MISSING, claims_of, forge
from journeys.support.raw_http import RawResponse, exchange, request
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.upstream.handle import Upstream
from tollkeeper.identity.tokens import key_id

PROMPT = "sent-without-a-valid-token"
CORRELATION = {"X-Correlation-ID": "the-same-for-all"}
CLAIMS = ("sub", "tid", "role", "ver", "typ", "jti", "iss", "aud", "iat", "exp")
OTHER_SECRET = "another-secret-of-good-length-0123456789"


def _tampered(caller: ApiUser) -> str:
    header, _, signature = caller.token.split(".")
    claims = claims_of(caller.principal) | {"role": "operator"}
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"{header}.{payload}.{signature}"


def _one_letter_changed(caller: ApiUser) -> str:
    head, changed, last = caller.token[:-2], caller.token[-2], caller.token[-1]
    return head + ("A" if changed != "A" else "B") + last


def _without(claim: str) -> Callable[[ApiUser], str]:
    return lambda caller: forge(caller.principal, {claim: MISSING})


BAD_TOKENS: dict[str, Callable[[ApiUser], str]] = {
    "empty": lambda _: "",
    "a word": lambda _: "token",
    "two dots": lambda _: "..",
    "30 KB": lambda caller: caller.token + "A" * 30_000,
    "20 KB of claims": lambda caller: forge(caller.principal, {"x": "y" * 20_000}),
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
    "exp of 400 digits": lambda caller: forge(caller.principal, {"exp": 10**400}),
    "another audience": lambda caller: forge(caller.principal, {"aud": "elsewhere"}),
    "several audiences": lambda caller: forge(caller.principal, {"aud": ["tollkeeper", "elsewhere"]}),
    "another issuer": lambda caller: forge(caller.principal, {"iss": "elsewhere"}),
    "another type": lambda caller: forge(caller.principal, {"typ": "refresh"}),
    "not good before tomorrow": lambda caller: forge(caller.principal, {"nbf": 9_999_999_999}),
    "sub no number": lambda caller: forge(caller.principal, {"sub": "1 OR 1=1"}),
    "sub a number": lambda caller: forge(caller.principal, {"sub": caller.principal.user_id}),
    "sub in other digits": lambda caller: forge(caller.principal, {"sub": "٣"}),
    "sub of no user": lambda caller: forge(caller.principal, {"sub": "999999"}),
    "sub beyond 64 bits": lambda caller: forge(caller.principal, {"sub": str(2**70)}),
    "sub negative": lambda caller: forge(caller.principal, {"sub": "-1"}),
    "another tenant": lambda caller: forge(caller.principal, {"tid": caller.principal.tenant_id + 1}),
    "tenant beyond 64 bits": lambda caller: forge(caller.principal, {"tid": 2**70}),
    "tenant a text": lambda caller: forge(caller.principal, {"tid": str(caller.principal.tenant_id)}),
    "a future version": lambda caller: forge(caller.principal, {"ver": 1}),
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


async def test_a_forged_token_without_changes_is_accepted(server: Server) -> None:
    async with new_user(server) as caller:
        header = f"Authorization: Bearer {forge(caller.principal)}\r\n".encode()
        answers = await _responses_to(server, header)
    assert [raw.status for raw in answers] == [200, 200]


async def test_every_invalid_token_gets_the_same_refusal(server: Server, upstream: Upstream) -> None:
    async with new_user(server) as caller:
        headers = {name: f"Authorization: Bearer {bad(caller)}\r\n".encode() for name, bad in BAD_TOKENS.items()}
        await _assert_all_get_the_same_refusal(server, upstream, caller, headers)


async def test_a_token_outside_the_authorization_header_is_refused(server: Server, upstream: Upstream) -> None:
    async with new_user(server) as caller:
        token = caller.token.encode()
        headers = {name: header.replace(b"%b", token) for name, header in BAD_HEADERS.items()}
        await _assert_all_get_the_same_refusal(server, upstream, caller, headers)


async def _assert_all_get_the_same_refusal(
    server: Server, upstream: Upstream, caller: ApiUser, headers: dict[str, bytes]
) -> None:
    requests_before = len(upstream.requests(PROMPT))
    answers = {name: await _responses_to(server, header) for name, header in headers.items()}
    accepted = {name: raw for name, responses in answers.items() for raw in responses if raw.status != 401}
    assert accepted == {}
    refusals = {(raw.body, raw.headers["www-authenticate"]) for responses in answers.values() for raw in responses}
    assert len(refusals) == 1, refusals
    assert next(iter(answers.values()))[0].problem["code"] == "unauthenticated"
    assert await caller.charges() == []
    assert len(upstream.requests(PROMPT)) == requests_before


async def _responses_to(server: Server, header: bytes) -> list[RawResponse]:
    """The responses of an ordinary route and of a metered endpoint to a request with this header."""
    me_request = request("GET", "/me", b"", CORRELATION, raw_headers=header)
    query_request = request(
        "POST", "/ai/query", json.dumps({"prompt": PROMPT}).encode(), CORRELATION, raw_headers=header
    )
    return [await exchange(server.port, data) for data in (me_request, query_request)]
