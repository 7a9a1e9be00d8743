"""Single sign-on by a real provider, over its own pages, from the administrator's set-up to a call of a model."""

import secrets
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest

from journeys.support.admins import new_admin
from journeys.support.openid import new_browser
from journeys.support.real_provider import ProviderMissing, RealProvider
from journeys.support.server import Server
from tollkeeper.principal import Role


@pytest.fixture(scope="module")
def real_provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealProvider]:
    try:
        provider = RealProvider(tmp_path_factory.mktemp("provider") / "provider.out")
    except ProviderMissing as reason:
        pytest.skip(str(reason))
    yield provider
    provider.stop()


OTHER_ALGORITHMS = [pytest.param(one, marks=pytest.mark.exhaustive) for one in ("ES256", "PS256")]


@pytest.mark.parametrize("algorithm", ["RS256", *OTHER_ALGORITHMS])
async def test_a_person_logs_in_at_a_real_provider_and_calls_a_model(
    server: Server, real_provider: RealProvider, algorithm: str
) -> None:
    name, domain = f"idp-{secrets.token_hex(8)}", f"{secrets.token_hex(8)}.example.com"
    async with (
        new_admin(server, Role.OPERATOR) as operator,
        new_admin(server) as admin,
        new_browser(server) as browser,
        new_browser(server) as another,
        new_browser(server) as third,
    ):
        callback = f"{server.url}/auth/oidc/{name}/callback"
        client = await real_provider.register(admin.http, callback, algorithm)
        tenant = f"/admin/tenants/{admin.principal.tenant_id}"
        await operator.post(f"{tenant}/domains", {"domain": domain})
        await admin.patch(tenant, {"default_limit": 50_000, "default_period": "month"})
        document = {
            "name": name,
            "issuer": real_provider.issuer,
            "client_id": client["client_id"],
            "client_secret": client["client_secret"],
            "role_claim": "groups",
            "admin_values": ["ai-admins"],
        }
        made = await admin.send("PUT", "/admin/identity-provider", document)
        assert (made.status, made.body["redirect_uri"]) == (200, callback)

        answer = await real_provider.log_in(browser.http, await browser.start(name), f"ada@{domain}")
        assert parse_qs(urlsplit(answer).query)["iss"] == [real_provider.issuer]
        tokens = await browser.open(answer)
        assert tokens.status == 200, tokens
        token = tokens.body["access_token"]
        query = await browser.post("/ai/query", {"prompt": "How much?"}, token)
        assert (query.status, query.body["quota"]["limit"]) == (200, 50_000)
        assert (await browser.get("/admin/tenants", token)).code == "forbidden"
        assert (await browser.open(answer)).code == "sign_on_refused", "its state is used"

        again = await browser.open(await real_provider.log_in(browser.http, await browser.start(name), "nobody"))
        assert (await browser.get("/me", again.body["access_token"])).body["email"] == f"ada@{domain}", (
            "the browser is logged in at the provider, so that it does not ask"
        )
        boss = await another.open(await real_provider.log_in(another.http, await another.start(name), f"boss@{domain}"))
        assert (await another.get("/admin/tenants", boss.body["access_token"])).status == 200
        fresh = await another.start(name, "?fresh=true")
        proven = await another.open(await real_provider.log_in(another.http, fresh, f"boss@{domain}"))
        key = await another.post("/auth/keys", {"name": "robot"}, proven.body["access_token"])
        assert key.status == 201, "the person has proved anew who they are"
        stranger = await third.open(
            await real_provider.log_in(third.http, await third.start(name), "eve@evil.example.com")
        )
        assert (stranger.status, stranger.code) == (401, "sign_on_refused")
