"""Answers that a hostile browser or a hostile provider forges: each is refused, and nobody is created."""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import pytest
from aiohttp import web
from joserfc import jws

from journeys.support.admins import new_admin
from journeys.support.openid import (
    fake_provider,
    new_browser,
    provider_document,
    sign,
    sign_on_tenant,
    signing_key,
)
from journeys.support.server import Server
from journeys.support.users import Reply

pytestmark = [
    pytest.mark.exhaustive_on_postgres,
    pytest.mark.prove_only_on_postgres(but=("test_a_state_and_a_code_are_of_use_once_and_only_in_their_browser",)),
]

OWN = "/admin/identity-provider"
FAR_FUTURE_S = 4_000_000_000


def part(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unsigned(header: dict[str, Any], claims: dict[str, Any]) -> str:
    return f"{part(header | {'alg': 'none'})}.{part(claims)}."


def hmac_with(secret: bytes) -> Callable[[dict[str, Any], dict[str, Any]], str]:
    def signed(header: dict[str, Any], claims: dict[str, Any]) -> str:
        message = f"{part(header | {'alg': 'HS256'})}.{part(claims)}"
        return f"{message}.{part(hmac.digest(secret, message.encode(), hashlib.sha256))}"

    return signed


def with_other_key(header: dict[str, Any], claims: dict[str, Any]) -> str:
    return jws.serialize_compact(header, json.dumps(claims), signing_key("other"), ["RS256"])


def with_changed_claims(header: dict[str, Any], claims: dict[str, Any]) -> str:
    head, _, signature = sign(header, claims).split(".")
    return f"{head}.{part(claims | {'sub': 'someone-else'})}.{signature}"


def with_own_key(header: dict[str, Any], claims: dict[str, Any]) -> str:
    own = signing_key("other")
    return jws.serialize_compact(header | {"jwk": own.as_dict(private=False)}, json.dumps(claims), own, ["RS256"])


FORGED_TOKENS: dict[str, dict[str, Any]] = {
    "another nonce": {"claims": {"nonce": "x" * 43}},
    "no nonce": {"claims": {"nonce": None}},
    "another audience": {"claims": {"aud": "another-client"}},
    "an audience of numbers": {"claims": {"aud": [7]}},
    "no audience": {"claims": {"aud": None}},
    "another issuer": {"claims": {"iss": "https://accounts.example.com"}},
    "no issuer": {"claims": {"iss": None}},
    "another authorized party": {"claims": {"azp": "another-client"}},
    "two audiences and no party": {"claims": {"aud": ["tollkeeper", "another-client"]}},
    "expired": {"claims": {"exp": 1_700_000_000}},
    "no expiry": {"claims": {"exp": None}},
    "an expiry that is a text": {"claims": {"exp": "never"}},
    "issued in the future": {"claims": {"iat": FAR_FUTURE_S}},
    "no time of issue": {"claims": {"iat": None}},
    "no subject": {"claims": {"sub": None}},
    "an empty subject": {"claims": {"sub": ""}},
    "a long subject": {"claims": {"sub": "x" * 256}},
    "a subject that is a number": {"claims": {"sub": 7}},
    "unsigned": {"sign": unsigned},
    "HMAC with the public key": {"sign": hmac_with(signing_key().as_pem(private=False))},
    "HMAC with the modulus": {"sign": hmac_with(signing_key().as_dict(private=False)["n"].encode())},  # type: ignore[union-attr]
    "HMAC with the client's secret": {"sign": hmac_with(b"of the client: %&=")},
    "another key of the same name": {"sign": with_other_key},
    "a key of its own in the header": {"sign": with_own_key},
    "changed claims": {"sign": with_changed_claims},
    "an unknown critical header": {"header": {"crit": ["x"], "x": 1}},
    "no name of a key": {"header": {"kid": None}},
    "no token": {"sign": lambda *_: ""},
    "text": {"sign": lambda *_: "a.b.c"},
    "huge": {"sign": lambda *_: f"{'a' * 40_000}.b.c"},
}


def assert_refused(reply: Reply, detail: str = "") -> None:
    assert (reply.status, reply.code) == (401, "sign_on_refused"), reply
    assert detail in reply.body["detail"]
    assert "access_token" not in reply.body


async def test_forged_id_tokens_are_refused_each_and_an_honest_one_is_accepted(server: Server) -> None:
    async with sign_on_tenant(server) as tenant, new_browser(server) as browser:
        for name, forged in FORGED_TOKENS.items():
            provider = tenant.provider
            provider.claims = forged.get("claims", {})
            provider.header = forged.get("header", {})
            provider.sign = forged.get("sign", sign)
            reply = await browser.log_in(tenant, secrets.token_hex(8))
            assert (reply.status, reply.code) == (401, "sign_on_refused"), (name, reply)
        provider.claims, provider.header, provider.sign = {"aud": ["tollkeeper", "x"], "azp": "tollkeeper"}, {}, sign
        assert (await browser.log_in(tenant, secrets.token_hex(8))).status == 200
        lines = (await tenant.admin.get("/admin/audit?limit=100")).body["data"]
        assert [line["action"] for line in lines].count("user.create") == 1
        assert provider.requests["/keys"] == 1, "they are read once, at the set-up"


async def test_the_answer_of_another_provider_is_refused(server: Server) -> None:
    """Mix-up: the browser is at one provider, and the answer comes from, or goes to, another one."""
    async with sign_on_tenant(server) as one, sign_on_tenant(server) as two, new_browser(server) as browser:
        answer = one.provider.log_in(await browser.start(one.name), "ada")
        assert_refused(await browser.open(answer.replace(one.name, two.name)))
        assert two.provider.requests["/token"] == 0, "the code of one provider must not be sent to another"

        answer = one.provider.log_in(await browser.start(one.name), "ada")
        mixed = answer.replace(quote(one.provider.issuer, safe=""), quote(two.provider.issuer, safe=""))
        assert mixed != answer
        assert_refused(await browser.open(mixed), "another identity provider")

        answer = one.provider.log_in(await browser.start(one.name), "ada")
        assert_refused(await browser.open(answer.partition("&iss=")[0]), "another identity provider")
        assert one.provider.requests["/token"] == 0


async def test_a_state_and_a_code_are_of_use_once_and_only_in_their_browser(server: Server) -> None:
    async with sign_on_tenant(server) as tenant, new_browser(server) as browser, new_browser(server) as other:
        answer = tenant.provider.log_in(await browser.start(tenant.name), "ada")
        assert_refused(await other.open(answer), "cookie")
        await other.start(tenant.name)
        assert_refused(await other.open(answer), "has started")
        cookies = {cookie.key: cookie.value for cookie in browser.http.cookie_jar}
        assert (await browser.open(answer)).status == 200
        assert_refused(await browser.open(answer), "cookie")
        browser.http.cookie_jar.update_cookies(cookies)
        async with browser.http.get(answer, cookies=cookies) as response:
            assert (await response.json())["code"] == "sign_on_refused"
        assert tenant.provider.requests["/token"] == 1

        code = parse_qs(urlsplit(answer).query)["code"][0]
        again = tenant.provider.log_in(await browser.start(tenant.name), "ada")
        fresh = parse_qs(urlsplit(again).query) | {"code": [code]}
        assert_refused(await browser.open(f"{again.partition('?')[0]}?{urlencode(fresh, doseq=True)}"), "400")


async def test_a_forged_cookie_and_odd_parameters_are_refused_before_anything_is_asked(server: Server) -> None:
    async with sign_on_tenant(server) as tenant, new_browser(server) as browser:
        callback = f"{server.url}/auth/oidc/{tenant.name}/callback"
        for cookie in ("x", "A" * 400, "A" * 5_000, "é", "AQ"):
            headers = {"Cookie": f"tollkeeper_sign_on={cookie}"}
            async with browser.http.get(f"{callback}?code=a&state=b", headers=headers) as response:
                assert (await response.json())["code"] == "sign_on_refused"
        answer = tenant.provider.log_in(await browser.start(tenant.name), "ada")
        for added in ("&state=x", "&code=x", "&iss=x", "&error=x&error=y"):
            assert (await browser.open(answer + added)).code == "invalid_request"
        for long in (f"state={'x' * 101}", f"code={'x' * 4_097}", f"iss={'x' * 501}", f"error={'x' * 101}"):
            assert (await browser.open(f"{callback}?{long}")).code == "invalid_request"
        assert tenant.provider.requests["/token"] == 0
        denied = answer.replace("code=", "error=access_denied&x=")
        assert_refused(await browser.open(denied), "did not log you in")
        assert_refused(await browser.open(answer), "ended before")


async def test_a_flood_of_unknown_keys_reads_the_key_set_once_a_minute(server: Server) -> None:
    async with sign_on_tenant(server) as tenant, new_browser(server) as browser:
        for number in range(5):
            tenant.provider.header = {"kid": f"unknown-{number}"}
            assert_refused(await browser.log_in(tenant, "ada"), "does not publish")
        assert tenant.provider.requests["/keys"] == 1
        assert tenant.provider.requests["/.well-known/openid-configuration"] == 1


@pytest.mark.parametrize(
    "answer",
    [
        web.json_response({"error": "server_error", "error_description": "SECRET"}, status=500),
        web.json_response({"error": "invalid_client", "error_description": "SECRET"}, status=401),
        web.Response(text="SECRET"),
        web.json_response(["SECRET"]),
        web.json_response({"access_token": "SECRET"}),
        web.json_response({"id_token": 7, "x": "SECRET"}),
        web.json_response({"id_token": "SECRET" * 20_000}),
        web.Response(status=307, headers={"Location": "http://127.0.0.1:1/SECRET"}),
    ],
    ids=["500", "401", "text", "list", "no ID token", "a number", "giant", "redirect"],
)
async def test_an_error_of_the_token_endpoint_is_refused_and_not_shown(server: Server, answer: web.Response) -> None:
    body, status, headers = answer.body, answer.status, answer.headers.copy()
    headers.popall("Content-Length", None)
    async with sign_on_tenant(server) as tenant, new_browser(server) as browser:
        tenant.provider.answers["/token"] = lambda: web.Response(body=body, status=status, headers=headers)
        reply = await browser.log_in(tenant, "ada")
        assert (reply.status, reply.code) in [(401, "sign_on_refused"), (502, "host_failed")]
        assert "SECRET" not in str(reply.body)


HOSTILE_DISCOVERY: dict[str, dict[str, Any]] = {
    "another issuer": {"issuer": "https://accounts.example.com"},
    "no issuer": {"issuer": None},
    "keys in the metadata service": {"jwks_uri": "http://169.254.169.254/latest/meta-data"},
    "keys in a private network": {"jwks_uri": "https://10.0.0.1/keys"},
    "keys at a mapped address": {"jwks_uri": "https://[::ffff:169.254.169.254]/keys"},
    "keys in a file": {"jwks_uri": "file:///etc/passwd"},
    "no keys": {"jwks_uri": None},
    "a token endpoint with a user": {"token_endpoint": "https://a:b@idp.example.com/token"},
    "a page that is a script": {"authorization_endpoint": "javascript:alert(1)"},
    "a page with a line end": {"authorization_endpoint": "https://idp.example.com/\r\nSet-Cookie: a=b"},
    "only HMAC": {"id_token_signing_alg_values_supported": ["HS256", "none"]},
    "only the implicit flow": {"response_types_supported": ["id_token"]},
    "only plain PKCE": {"code_challenge_methods_supported": ["plain"]},
}


async def test_a_provider_with_a_hostile_configuration_cannot_be_set(server: Server) -> None:
    async with new_admin(server) as admin:
        for name, discovery in HOSTILE_DISCOVERY.items():
            async with fake_provider(discovery=discovery) as provider:
                refused = await admin.send("PUT", OWN, provider_document(provider, f"idp-{secrets.token_hex(8)}"))
                assert (refused.status, refused.code) == (422, "invalid_request"), (name, refused)
                assert provider.requests["/token"] == 0
        async with fake_provider() as provider:
            document = provider_document(provider, f"idp-{secrets.token_hex(8)}")
            for issuer in (
                "http://169.254.169.254/",
                "https://10.0.0.1",
                "https://[fd00::1]",
                "https://[::ffff:10.0.0.1]",
                "http://1.1.1.1",
                "https://2130706433",
                f"{provider.issuer}?x=y",
                "idp",
                provider.issuer.replace("127.0.0.1", "user:secret@127.0.0.1"),
            ):
                refused = await admin.send("PUT", OWN, document | {"issuer": issuer})
                assert (refused.status, refused.code) == (422, "invalid_request"), issuer
            assert provider.requests.total() == 0
        assert (await admin.get(OWN)).code == "not_found"


async def test_a_configuration_that_turns_hostile_later_is_refused(server: Server) -> None:
    """The keys redirect, are giant, or are of a size that takes seconds; the token endpoint is in a private network."""
    for path, answer in (
        ("/keys", lambda: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"})),
        ("/keys", lambda: web.json_response({"keys": [], "x": "x" * 70_000})),
        ("/keys", lambda: web.Response(text="{")),
    ):
        async with sign_on_tenant(server) as tenant, new_browser(server) as browser:
            tenant.provider.answers[path] = answer
            refused = await tenant.admin.send("PUT", OWN, tenant.document)
            assert (refused.status, refused.code) == (422, "invalid_request")
            reply = await browser.log_in(tenant, "ada")
            assert (reply.status, reply.code) == (502, "host_failed")
    async with (
        new_admin(server) as admin,
        new_browser(server) as browser,
        fake_provider(discovery={"token_endpoint": "https://10.0.0.1/token"}) as provider,
    ):
        name = f"idp-{secrets.token_hex(8)}"
        assert (await admin.send("PUT", OWN, provider_document(provider, name))).status == 200
        reply = await browser.open(provider.log_in(await browser.start(name), "ada"))
        assert (reply.status, reply.code) == (422, "address_refused")


async def test_a_provider_that_is_gone_is_reported_as_such(server: Server) -> None:
    async with sign_on_tenant(server) as tenant, new_browser(server) as browser:
        tenant.provider.answers["/.well-known/openid-configuration"] = lambda: web.Response(status=503)
        refused = await tenant.admin.send("PUT", OWN, tenant.document)
        assert "503" in refused.body["detail"]
        start = await browser.open(f"{server.url}/auth/oidc/{tenant.name}/start")
        assert (start.status, start.code) == (502, "host_failed")


async def test_a_public_client_proves_itself_by_pkce_alone(server: Server) -> None:
    async with sign_on_tenant(server, client_secret=None) as tenant, new_browser(server) as browser:
        assert (await browser.log_in(tenant, "ada")).status == 200
