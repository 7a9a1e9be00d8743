"""Single sign-on: who gets in by a tenant's OpenID provider, as whom, and what administrators set."""

import secrets
from datetime import datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import text

from journeys.support.admins import new_admin
from journeys.support.openid import (
    CLIENT_SECRET,
    fake_provider,
    new_browser,
    provider_document,
    sign_on_tenant,
)
from journeys.support.server import Server
from journeys.support.users import PASSWORD, login, new_user
from tollkeeper.database.engine import Database
from tollkeeper.principal import Role

pytestmark = pytest.mark.prove_only_on_postgres(
    but=(
        "test_a_new_person_becomes_a_member_with_the_default_quota_and_comes_back_as_the_same_user",
        "test_disabled_users_providers_and_tenants_are_refused",
        "test_another_tenant_with_the_same_issuer_neither_gets_nor_locks_out_its_people",
        "test_an_administrator_sets_changes_and_removes_the_provider",
    )
)

OWN = "/admin/identity-provider"


def subject() -> str:
    return secrets.token_hex(8)


async def test_a_new_person_becomes_a_member_with_the_default_quota_and_comes_back_as_the_same_user(
    server: Server,
) -> None:
    async with sign_on_tenant(server) as tenant, new_browser(server) as browser:
        for domain, name in ((tenant.provider.domain.upper(), tenant.name), ("no-domain", None), ("example.org", None)):
            found = await browser.get(f"/auth/oidc?domain={domain}", "")
            assert (found.status, found.body) == (200, {"provider": name})
        path = f"/admin/tenants/{tenant.admin.principal.tenant_id}"
        await tenant.admin.patch(path, {"default_limit": 5_000, "default_period": "day"})
        sub = subject()
        reply = await browser.log_in(tenant, sub)
        assert (reply.status, reply.body["token_type"]) == (200, "bearer")
        assert reply.body.keys() == {"access_token", "refresh_token", "token_type", "expires_in"}
        assert reply.headers["Cache-Control"] == "no-store"
        me = (await browser.get("/me", reply.body["access_token"])).body
        assert (me["email"], me["role"]) == (f"{sub}@{tenant.provider.domain}", "member")
        quota = (await browser.get("/me/quota", reply.body["access_token"])).body["quotas"][0]
        assert (quota["limit"], quota["window"]) == (5_000, "day")
        answer = await browser.post("/ai/query", {"prompt": "How much?"}, reply.body["access_token"])
        assert answer.status == 200, answer
        again = await browser.log_in(tenant, sub, email="other@other.example.com", email_verified=False)
        assert (await browser.get("/me", again.body["access_token"])).body["email"] == me["email"]
        lines = (await tenant.admin.get("/admin/audit")).body["data"]
        assert [line["action"] for line in lines if line["actor"] != f"user:{tenant.operator.principal.user_id}"][
            :3
        ] == ["login", "login", "user.create"]
        assert me["email"] not in str(lines)


async def test_a_session_of_single_sign_on_can_be_refreshed_for_twelve_hours_at_most(server: Server) -> None:
    async with sign_on_tenant(server) as tenant, new_browser(server) as browser:
        reply = await browser.log_in(tenant, subject())
        (session,) = (await browser.get("/auth/sessions", reply.body["access_token"])).body["data"]
        assert session["method"] == "oidc"
        lasts = datetime.fromisoformat(session["expires_at"]) - datetime.fromisoformat(session["created_at"])
        assert lasts == timedelta(hours=12)
        refreshed = await browser.post("/auth/refresh", {"refresh_token": reply.body["refresh_token"]}, "")
        assert (await browser.get("/me", refreshed.body["access_token"])).status == 200


async def test_the_refresh_token_can_be_put_into_a_cookie(server: Server) -> None:
    async with sign_on_tenant(server) as tenant, new_browser(server) as browser:
        location = await browser.start(tenant.name, "?cookie=true")
        reply = await browser.open(tenant.provider.log_in(location, subject()))
        assert reply.body.keys() == {"access_token", "token_type", "expires_in"}
        assert "tollkeeper_refresh" in {cookie.key for cookie in browser.http.cookie_jar}


async def test_a_single_sign_on_of_the_console_ends_in_the_console(server: Server) -> None:
    async with sign_on_tenant(server) as tenant, new_browser(server) as browser:
        location = await browser.start(tenant.name, "?console=true")
        reply = await browser.open(tenant.provider.log_in(location, subject()))
        assert (reply.status, reply.headers["Location"], reply.body) == (303, "../../../console", None)
        kept = {cookie.key for cookie in browser.http.cookie_jar}
        assert "tollkeeper_refresh" in kept
        assert "tollkeeper_sign_on" not in kept
        location = await browser.start(tenant.name, "?console=true")
        reply = await browser.open(tenant.provider.log_in(location, subject(), email_verified=False))
        where, _, correlation_id = reply.headers["Location"].partition("?refused=")
        assert (reply.status, where, correlation_id) == (303, "../../../console", reply.headers["X-Correlation-ID"])
        assert "Set-Cookie" not in reply.headers


async def test_no_page_of_another_site_logs_a_browser_in_with_a_cookie(server: Server) -> None:
    async with sign_on_tenant(server) as tenant, new_browser(server) as browser:
        url = f"{server.url}/auth/oidc/{tenant.name}/start?cookie=true"
        evil = "https://evil.example.com/"
        for headers, status in (
            ({"Sec-Fetch-Site": "cross-site"}, 403),
            ({"Sec-Fetch-Site": "cross-site", "Referer": evil}, 403),
            ({"Sec-Fetch-Site": "same-site", "Referer": "null"}, 403),
            ({"Referer": evil}, 403),
            ({"Sec-Fetch-Site": "cross-site", "Referer": f"{server.url}/console"}, 302),
            ({"Sec-Fetch-Site": "same-origin"}, 302),
            ({"Sec-Fetch-Site": "none"}, 302),
            ({}, 302),
        ):
            async with browser.http.get(url, headers=headers, allow_redirects=False) as response:
                assert response.status == status, headers
                assert ("Set-Cookie" in response.headers) == (status == 302)


async def test_only_a_proof_of_a_moment_ago_is_a_fresh_login(server: Server) -> None:
    async with sign_on_tenant(server) as tenant, new_browser(server) as browser:
        sub = subject()
        long_ago = await browser.log_in(tenant, sub, groups=["ai-admins"], auth_time=1_700_000_000)
        key = {"name": "robot"}
        refused = await browser.post("/auth/keys", key, long_ago.body["access_token"])
        assert refused.code == "step_up_required"
        just_now = await browser.log_in(tenant, sub, groups=["ai-admins"], auth_time=4_000_000_000)
        assert (await browser.post("/auth/keys", key, just_now.body["access_token"])).status == 201
        without = await browser.log_in(tenant, sub, groups=["ai-admins"])
        refused = await browser.post("/auth/keys", key, without.body["access_token"])
        assert refused.code == "step_up_required", "the provider may have asked the person nothing"
        location = await browser.start(tenant.name, "?fresh=true")
        anew = await browser.open(tenant.provider.log_in(location, sub, groups=["ai-admins"]))
        assert (await browser.post("/auth/keys", key, anew.body["access_token"])).status == 201


async def test_the_password_login_of_a_person_who_has_none_is_refused(server: Server) -> None:
    async with sign_on_tenant(server) as tenant, new_browser(server) as browser:
        sub = subject()
        assert (await browser.log_in(tenant, sub)).status == 200
        refused = await login(tenant.admin.http, f"{sub}@{tenant.provider.domain}", PASSWORD)
        assert (refused.status, refused.code) == (401, "invalid_credentials")


async def test_the_way_to_the_provider_has_no_secret_in_it_and_the_cookie_is_out_of_reach(server: Server) -> None:
    async with sign_on_tenant(server) as tenant, new_browser(server) as browser:
        url = f"{server.url}/auth/oidc/{tenant.name}/start"
        async with browser.http.get(url, allow_redirects=False, headers={"Host": "evil.example.com"}) as response:
            cookie = response.headers["Set-Cookie"]
            asked = parse_qs(urlsplit(response.headers["Location"]).query)
        assert asked["redirect_uri"] == [f"{server.url}/auth/oidc/{tenant.name}/callback"]
        assert asked["theme"] == ["dark"]
        assert {"HttpOnly", "Max-Age=600", "Path=/auth/oidc", "SameSite=lax"} <= set(cookie.split("; "))
        assert asked["state"][0] not in cookie
        assert asked["nonce"][0] not in cookie
        assert "Secure" in cookie
        async with browser.http.get(url, allow_redirects=False) as response:
            assert "Secure" not in response.headers["Set-Cookie"], "on loopback"
        fresh = parse_qs(urlsplit(await browser.start(tenant.name, "?fresh=true")).query)
        assert (fresh["prompt"], fresh["max_age"]) == (["login"], ["0"])


async def test_the_role_follows_the_claim_and_a_change_ends_older_tokens(server: Server) -> None:
    async with sign_on_tenant(server) as tenant, new_browser(server) as browser:
        sub = subject()
        member = (await browser.log_in(tenant, sub, groups=["staff"])).body["access_token"]
        assert (await browser.get("/admin/tenants", member)).code == "forbidden"
        admin = (await browser.log_in(tenant, sub, groups=["staff", "ai-admins"])).body["access_token"]
        assert (await browser.get("/admin/tenants", admin)).status == 200
        assert (await browser.get("/me", member)).status == 401
        again = (await browser.log_in(tenant, sub, groups="operator")).body["access_token"]
        assert (await browser.get("/me", again)).body["role"] == "member"
        assert (await browser.get("/admin/tenants", admin)).status == 401


async def test_without_a_role_claim_roles_stay(server: Server) -> None:
    async with sign_on_tenant(server) as tenant, new_browser(server) as browser:
        document = tenant.document | {"role_claim": None, "admin_values": []}
        assert (await tenant.admin.send("PUT", OWN, document)).status == 200
        async with new_admin(server, tenant_id=tenant.admin.principal.tenant_id) as other:
            sub = subject()
            linked = await tenant.admin.post(f"/admin/users/{other.principal.user_id}/identities", {"subject": sub})
            assert linked.status == 201
            token = (await browser.log_in(tenant, sub, groups=["ai-admins"])).body["access_token"]
            assert (await browser.get("/me", token)).body["role"] == "tenant_admin"


@pytest.mark.parametrize(
    ("claims", "part"),
    [
        ({"email_verified": False}, "verified e-mail"),
        ({"email_verified": "true"}, "verified e-mail"),
        ({"email": None}, "verified e-mail"),
        ({"email": 7}, "verified e-mail"),
        ({"email": "no address"}, "valid e-mail"),
        ({"email": "ada@gmail.example.com"}, "domain"),
        ({"email": "ada@sub.{domain}"}, "domain"),
        ({"email": "ada@{domain}.evil.example.com"}, "domain"),
    ],
    ids=str,
)
async def test_a_new_person_without_a_verified_address_of_the_tenants_domain_is_refused(
    server: Server, claims: dict[str, object], part: str
) -> None:
    async with sign_on_tenant(server) as tenant, new_browser(server) as browser:
        filled = {
            name: value.format(domain=tenant.provider.domain) if isinstance(value, str) else value
            for name, value in claims.items()
        }
        tenant.provider.claims = filled
        sub = subject()
        reply = await browser.log_in(tenant, sub)
        assert (reply.status, reply.code) == (401, "sign_on_refused")
        assert part in reply.body["detail"]
        assert sub in reply.body["detail"]


async def test_an_address_that_a_user_has_is_never_linked_by_itself_but_by_an_administrator(server: Server) -> None:
    async with sign_on_tenant(server) as tenant, new_browser(server) as browser:
        tenant_id = tenant.admin.principal.tenant_id
        async with new_user(server, tenant_id=tenant_id) as member:
            domains = f"/admin/tenants/{tenant_id}/domains"
            # two tests at once share this domain, of which only one tenant can have it
            domain = member.email.rpartition("@")[2]
            await tenant.operator.post(domains, {"domain": domain})
            sub = subject()
            refused = await browser.log_in(tenant, sub, email=member.email)
            assert refused.code == "sign_on_refused"
            identities = f"/admin/users/{member.principal.user_id}/identities"
            linked = await tenant.admin.post(identities, {"subject": sub})
            assert (linked.status, linked.body["issuer"]) == (201, tenant.provider.issuer)
            token = (await browser.log_in(tenant, sub, email=member.email)).body["access_token"]
            assert (await browser.get("/me", token)).body["email"] == member.email
            taken = await tenant.admin.post(
                f"/admin/users/{tenant.admin.principal.user_id}/identities", {"subject": sub}
            )
            assert taken.code == "invalid_request"
            assert [one["subject"] for one in (await tenant.admin.get(identities)).body["data"]] == [sub]
            assert (await tenant.admin.send("DELETE", identities)).status == 204
            assert (await browser.log_in(tenant, sub, email=member.email)).code == "sign_on_refused"
            await tenant.operator.send("DELETE", f"{domains}/{domain}")


async def test_an_operator_never_logs_in_by_a_tenants_provider(server: Server) -> None:
    async with sign_on_tenant(server) as tenant, new_browser(server) as browser:
        tenant_id = tenant.admin.principal.tenant_id
        async with new_admin(server, Role.OPERATOR, tenant_id=tenant_id) as of_tenant:
            path = f"/admin/users/{of_tenant.principal.user_id}/identities"
            assert (await tenant.operator.post(path, {"subject": subject()})).code == "invalid_request"
        async with new_user(server, tenant_id=tenant_id) as promoted:
            sub = subject()
            path = f"/admin/users/{promoted.principal.user_id}/identities"
            assert (await tenant.admin.post(path, {"subject": sub})).status == 201
            await _execute(server, f"UPDATE users SET role = 'operator' WHERE id = {promoted.principal.user_id}")
            assert (await browser.log_in(tenant, sub)).code == "sign_on_refused"


async def test_disabled_users_providers_and_tenants_are_refused(server: Server) -> None:
    async with sign_on_tenant(server) as tenant, new_browser(server) as browser:
        sub = subject()
        assert (await browser.log_in(tenant, sub)).status == 200
        server.command("user", "disable", f"{sub}@{tenant.provider.domain}")
        assert (await browser.log_in(tenant, sub)).code == "sign_on_refused"
        server.command("user", "enable", f"{sub}@{tenant.provider.domain}")
        assert (await browser.log_in(tenant, sub)).status == 200

        location = await browser.start(tenant.name)
        await tenant.admin.send("PUT", OWN, tenant.document | {"disabled": True})
        assert (await browser.open(tenant.provider.log_in(location, sub))).code == "sign_on_refused"
        start = f"{server.url}/auth/oidc/{tenant.name}/start"
        assert (await browser.open(start)).code == "not_found"
        await tenant.admin.send("PUT", OWN, tenant.document)

        location = await browser.start(tenant.name)
        path = f"/admin/tenants/{tenant.admin.principal.tenant_id}"
        await tenant.operator.patch(path, {"disabled": True})
        assert (await browser.open(tenant.provider.log_in(location, sub))).code == "sign_on_refused"
        assert (await browser.open(start)).code == "not_found"


async def test_another_tenant_with_the_same_issuer_neither_gets_nor_locks_out_its_people(server: Server) -> None:
    """Two tenants can have the same issuer, as with Google. An identity is within its tenant."""
    async with sign_on_tenant(server) as tenant, new_browser(server) as browser, new_admin(server) as other:
        sub = subject()
        assert (await browser.log_in(tenant, sub)).status == 200
        name = f"idp-{secrets.token_hex(8)}"
        assert (await other.send("PUT", OWN, provider_document(tenant.provider, name))).status == 200
        location = await browser.start(name)
        assert (await browser.open(tenant.provider.log_in(location, sub))).code == "sign_on_refused"
        guessed = subject()
        theirs = (await other.post("/admin/users", {"email": f"{guessed}@example.net"})).body["id"]
        assert (await other.post(f"/admin/users/{theirs}/identities", {"subject": guessed})).status == 201
        reply = await browser.log_in(tenant, guessed)
        assert reply.status == 200
        me = (await browser.get("/me", reply.body["access_token"])).body
        assert me["email"] == f"{guessed}@{tenant.provider.domain}"


async def test_an_administrator_sets_changes_and_removes_the_provider(server: Server) -> None:
    async with sign_on_tenant(server) as tenant:
        admin, provider = tenant.admin, tenant.provider
        found = await admin.get(OWN)
        assert found.body["redirect_uri"] == f"{server.url}/auth/oidc/{tenant.name}/callback"
        assert (found.body["has_client_secret"], found.body["disabled"]) == (True, False)
        assert "client_secret" not in found.body
        assert CLIENT_SECRET not in str(found.body)
        without_secret = {name: value for name, value in tenant.document.items() if name != "client_secret"}
        changed = await admin.send("PUT", OWN, without_secret | {"scopes": "openid email"})
        assert (changed.status, changed.body["has_client_secret"], changed.body["scopes"]) == (
            200,
            True,
            "openid email",
        )
        stale = await admin.send("PUT", OWN, without_secret, {"If-Match": found.headers["ETag"]})
        assert (stale.status, stale.code) == (412, "precondition_failed")
        async with fake_provider() as elsewhere:
            moved = await admin.send("PUT", OWN, without_secret | {"issuer": elsewhere.issuer})
            assert (moved.status, moved.code) == (422, "invalid_request")
            assert "client_secret" in moved.body["detail"]
            assert elsewhere.requests["/token"] == 0
        assert (await admin.get(OWN)).body["issuer"] == provider.issuer
        assert (await admin.send("DELETE", OWN)).status == 204
        assert (await admin.get(OWN)).code == "not_found"
        assert (await admin.send("DELETE", OWN)).code == "not_found"
        lines = (await admin.get("/admin/audit")).body["data"]
        assert [line["action"] for line in lines[:3]] == [
            "identity_provider.remove",
            "identity_provider.set",
            "identity_provider.set",
        ]
        assert CLIENT_SECRET not in str(lines)


async def test_an_administrator_reaches_only_the_provider_of_their_own_tenant(server: Server) -> None:
    async with sign_on_tenant(server) as tenant, new_admin(server) as other, new_user(server) as member:
        of_other = f"{OWN}?tenant_id={tenant.admin.principal.tenant_id}"
        absent = f"{OWN}?tenant_id=2000000000"
        user = f"/admin/users/{tenant.admin.principal.user_id}/identities"
        nobody = "/admin/users/2000000000/identities"
        for method, path, missing, document in (
            ("GET", of_other, absent, None),
            ("PUT", of_other, absent, tenant.document),
            ("DELETE", of_other, absent, None),
            ("GET", user, nobody, None),
            ("POST", user, nobody, {"subject": "x"}),
            ("DELETE", user, nobody, None),
        ):
            found, none = await other.send(method, path, document), await other.send(method, missing, document)
            assert (found.status, found.code) == (none.status, none.code) == (404, "not_found"), (method, path)
            assert found.body["detail"] == none.body["detail"]
            async with member.http.request(method, path, json=document, headers=member.auth_headers) as response:
                assert response.status == 403
        assert (await tenant.operator.get(of_other)).body["name"] == tenant.name
        domains = f"/admin/tenants/{tenant.admin.principal.tenant_id}/domains"
        assert (await tenant.admin.get(domains)).code == "forbidden"
        assert (await tenant.admin.post(domains, {"domain": "evil.example.com"})).code == "forbidden"
        taken = await other.send("PUT", OWN, tenant.document)
        assert (taken.status, taken.code) == (422, "invalid_request")


async def test_operators_give_domains_to_tenants_each_to_one(server: Server) -> None:
    async with new_admin(server, Role.OPERATOR) as operator, new_admin(server) as one, new_admin(server) as two:
        domain = f"{secrets.token_hex(8)}.example.com"
        of_one, of_two = (f"/admin/tenants/{each.principal.tenant_id}/domains" for each in (one, two))
        added = await operator.post(of_one, {"domain": f"{domain.upper()}."})
        assert (added.status, added.body["domain"]) == (201, domain)
        assert (await operator.post(of_two, {"domain": domain})).code == "invalid_request"
        for wrong in ("example", "-.example.com", "a b.example.com", "1.1.1.1", "*.example.com", "@example.com"):
            assert (await operator.post(of_two, {"domain": wrong})).code == "invalid_request", wrong
        assert [row["domain"] for row in (await operator.get(of_one)).body["data"]] == [domain]
        assert (await operator.send("DELETE", f"{of_two}/{domain}")).code == "not_found"
        assert (await operator.send("DELETE", f"{of_one}/{domain}")).status == 204
        assert (await operator.get(of_one)).body["data"] == []
        assert (await operator.get("/admin/tenants/2000000000/domains")).code == "not_found"


async def _execute(server: Server, statement: str) -> None:
    database = Database(server.database_url)
    async with database.session() as session:
        await (await session.connection()).execute(text(statement))
    await database.close()
