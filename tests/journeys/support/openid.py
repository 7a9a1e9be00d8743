"""An OpenID provider of a test, honest unless the test says otherwise; and a browser that logs in by a provider."""

import base64
import hashlib
import json
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, quote_plus, urlencode, urlsplit

import aiohttp
from aiohttp import web
from joserfc import jws
from joserfc.jwk import RSAKey

from journeys.support.admins import Admin, new_admin
from journeys.support.server import Server
from journeys.support.users import Reply
from support.deadlines import TEST_DEADLINE_S
from tollkeeper.clock import SystemClock
from tollkeeper.principal import Role

CLIENT_SECRET = "of the client: %&="
KEY_ID = "key-1"

Sign = Callable[[dict[str, Any], dict[str, Any]], str]


@cache
def signing_key(name: str = KEY_ID) -> RSAKey:
    """An RSA key for all tests of a process."""
    return RSAKey.generate_key(2048, {"kid": name, "use": "sig", "alg": "RS256"})


def sign(header: dict[str, Any], claims: dict[str, Any]) -> str:
    """An ID token as an honest provider signs it."""
    return jws.serialize_compact(header, json.dumps(claims), signing_key(), ["RS256"])


@dataclass
class FakeProvider:
    """What the provider answers can be changed: `discovery`, `claims` and `header` by what overrides the honest ones
    (None removes a field), `keys` is the key set, `sign` makes the ID token, and `answers` are whole responses by path.
    """

    client_id: str = "tollkeeper"
    client_secret: str | None = CLIENT_SECRET
    discovery: dict[str, Any] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)
    keys: Any = None
    sign: Sign = sign
    answers: dict[str, web.Response | Callable[[], web.Response]] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    port: int = 0
    domain: str = field(default_factory=lambda: f"{secrets.token_hex(8)}.example.com")
    """The domain of everybody's e-mail address."""
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}/realms/test"

    def log_in(self, authorization_url: str, subject: str, **claims: Any) -> str:
        """The person logs in at the page to which `start` has sent the browser. Returns where the provider sends it."""
        asked = dict(parse_qsl(urlsplit(authorization_url).query))
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        assert asked["client_id"] == self.client_id
        assert "openid" in asked["scope"].split()
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked | {"subject": subject, "claims": json.dumps(claims)}
        answer = {"code": code, "state": asked["state"], "iss": self.issuer}
        return f"{asked['redirect_uri']}?{urlencode(answer)}"

    async def serve(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/realms/test")
        self.requests[path] += 1
        if path in self.answers:
            answer = self.answers[path]
            return answer() if callable(answer) else answer
        match path:
            case "/.well-known/openid-configuration":
                return web.json_response(without_none(self._discovery() | self.discovery))
            case "/keys":
                honest = {"keys": [signing_key().as_dict(private=False)]}
                return web.json_response(self.keys if self.keys is not None else honest)
            case "/token":
                return self._token(request, dict(parse_qsl(await request.text())))
        return web.Response(status=404)

    def _discovery(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize?theme=dark",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "response_types_supported": ["code"],
            "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
            "authorization_response_iss_parameter_supported": True,
        }

    def _token(self, request: web.Request, sent: dict[str, str]) -> web.Response:
        asked = self.codes.pop(sent.get("code", ""), None)
        if asked is None:
            return web.json_response({"error": "invalid_grant"}, status=400)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(sent["code_verifier"].encode()).digest()).rstrip(b"=")
        assert asked["code_challenge"] == challenge.decode()
        assert asked["redirect_uri"] == sent["redirect_uri"]
        if self.client_secret is not None:
            pair = f"{quote_plus(self.client_id)}:{quote_plus(self.client_secret)}"
            assert request.headers["Authorization"] == f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            assert sent["client_id"] == self.client_id
        now_s = SystemClock().now_ms() // 1000
        claims = {
            "iss": self.issuer,
            "sub": asked["subject"],
            "aud": self.client_id,
            "exp": now_s + 300,
            "iat": now_s,
            "nonce": asked["nonce"],
            "email": f"{asked['subject']}@{self.domain}",
            "email_verified": True,
        }
        claims = without_none(claims | json.loads(asked["claims"]) | self.claims)
        token = self.sign(without_none({"alg": "RS256", "kid": KEY_ID} | self.header), claims)
        return web.json_response({"access_token": "x", "token_type": "Bearer", "id_token": token})


@asynccontextmanager
async def fake_provider(**fields: Any) -> AsyncIterator[FakeProvider]:
    """A provider on loopback."""
    provider = FakeProvider(**fields)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", provider.serve)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        provider.port = runner.addresses[0][1]
        yield provider
    finally:
        await runner.cleanup()


@dataclass(frozen=True, slots=True)
class SignOnTenant:
    """A tenant with a provider, whose domain is that of the provider's people. `name` is in the URLs."""

    admin: Admin
    operator: Admin
    provider: FakeProvider
    name: str

    @property
    def document(self) -> dict[str, Any]:
        """The provider as the administrator has entered it."""
        return provider_document(self.provider, self.name)


def provider_document(provider: FakeProvider, name: str) -> dict[str, Any]:
    """The body of PUT /admin/identity-provider."""
    document = {
        "name": name,
        "issuer": provider.issuer,
        "client_id": provider.client_id,
        "role_claim": "groups",
        "admin_values": ["ai-admins"],
    }
    secret = provider.client_secret
    return document | ({"client_secret": secret} if secret is not None else {"public_client": True})


@asynccontextmanager
async def sign_on_tenant(server: Server, **fields: Any) -> AsyncIterator[SignOnTenant]:
    """A new tenant with a provider of its own, which an operator and its administrator have set up over the API."""
    async with (
        fake_provider(**fields) as provider,
        new_admin(server, Role.OPERATOR) as operator,
        new_admin(server) as admin,
    ):
        name = f"idp-{secrets.token_hex(8)}"
        domains = f"/admin/tenants/{admin.principal.tenant_id}/domains"
        assert (await operator.post(domains, {"domain": provider.domain})).status == 201
        tenant = SignOnTenant(admin, operator, provider, name)
        made = await admin.send("PUT", "/admin/identity-provider", tenant.document)
        assert made.status == 200, made
        yield tenant


class Browser:
    """A browser of one person: it keeps cookies, and follows no redirect by itself."""

    def __init__(self, server: Server, http: aiohttp.ClientSession) -> None:
        self.server = server
        self.http = http

    async def start(self, name: str, query: str = "") -> str:
        """Open the start of a single sign-on. Returns where the browser is sent."""
        async with self.http.get(f"{self.server.url}/auth/oidc/{name}/start{query}", allow_redirects=False) as response:
            assert response.status == 302, await response.text()
            return response.headers["Location"]

    async def open(self, url: str) -> Reply:
        """Open a URL of the server."""
        async with self.http.get(url, allow_redirects=False) as response:
            return Reply(response.status, await response.json(content_type=None), response.headers)

    async def log_in(self, tenant: SignOnTenant, subject: str, **claims: Any) -> Reply:
        """The whole single sign-on. Returns the response of the callback."""
        location = await self.start(tenant.name)
        return await self.open(tenant.provider.log_in(location, subject, **claims))

    async def get(self, path: str, token: str) -> Reply:
        headers = {"Authorization": f"Bearer {token}"}
        async with self.http.get(f"{self.server.url}{path}", headers=headers) as response:
            return Reply(response.status, await response.json(content_type=None), response.headers)

    async def post(self, path: str, document: Any, token: str) -> Reply:
        headers = {"Authorization": f"Bearer {token}"}
        async with self.http.post(f"{self.server.url}{path}", json=document, headers=headers) as response:
            return Reply(response.status, await response.json(content_type=None), response.headers)


@asynccontextmanager
async def new_browser(server: Server) -> AsyncIterator[Browser]:
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar, timeout=aiohttp.ClientTimeout(total=TEST_DEADLINE_S)) as http:
        yield Browser(server, http)


def without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
