"""The client of OpenID providers: kept documents, discovery, the state of an attempt, and the token endpoint."""

import base64
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import orjson
import pytest
from pydantic import SecretStr

from support.factories import FakeClock, make_tenant
from tollkeeper.database.engine import Database
from tollkeeper.encryption.data_keys import DataKeys, Purpose
from tollkeeper.errors import InvalidRequest, NotFound, OutboundFailed, OutboundRefused, SealBroken, SignOnRefused
from tollkeeper.identity import domains, providers
from tollkeeper.identity.models import IdentityProvider
from tollkeeper.identity.oidc import attempts
from tollkeeper.identity.oidc.client import OpenIdClient, Person, Registration
from tollkeeper.identity.oidc.documents import MAX_DOCUMENTS, Documents, parse_object
from tollkeeper.identity.oidc.metadata import discovery_url, parse_metadata
from tollkeeper.outbound.client import OutboundClient, OutboundResponse

ISSUER = "https://idp.example.com/realm"
DISCOVERY: dict[str, Any] = {
    "issuer": ISSUER,
    "authorization_endpoint": "https://idp.example.com/authorize",
    "token_endpoint": "https://idp.example.com/token",
    "jwks_uri": "https://idp.example.com/keys",
}
KEY = SecretStr("0f1e2d3c4b5a69788796a5b4c3d2e1f0")


class FakeOutbound(OutboundClient):
    """Answers by URL, and notes what was asked."""

    def __init__(self, answers: dict[str, OutboundResponse | Exception]) -> None:
        super().__init__("")
        self.close()
        self.answers = answers
        self.asked: list[tuple[str, bytes, dict[str, str]]] = []

    async def get(self, url: str, *, tenant_id: int) -> OutboundResponse:
        return self._answer(url, b"", {})

    async def post(
        self, url: str, body: bytes, headers: Any, *, tenant_id: int, reads_body: bool = True
    ) -> OutboundResponse:
        return self._answer(url, body, dict(headers))

    def _answer(self, url: str, body: bytes, headers: dict[str, str]) -> OutboundResponse:
        self.asked.append((url, body, headers))
        answer = self.answers[url]
        if isinstance(answer, Exception):
            raise answer
        return answer


def document(fields: Any, status: int = 200) -> OutboundResponse:
    return OutboundResponse(status, orjson.dumps(fields))


@pytest.fixture
async def keys(database: Database) -> DataKeys:
    made = DataKeys(KEY)
    await made.load(database, FakeClock())
    return made


async def test_a_document_is_kept_for_ten_minutes_and_a_failure_for_seconds() -> None:
    clock, outbound = FakeClock(), FakeOutbound({"https://a/": document({"n": 1})})
    documents = Documents(outbound, clock)
    assert [await documents.get("https://a/", tenant_id=1) for _ in range(3)] == [{"n": 1}] * 3
    assert len(outbound.asked) == 1
    clock.step(61)
    await documents.get("https://a/", tenant_id=1, max_age_ms=60_000)
    assert len(outbound.asked) == 2
    outbound.answers["https://a/"] = OutboundFailed("gone")
    clock.step(601)
    for _ in range(3):
        with pytest.raises(OutboundFailed, match="gone"):
            await documents.get("https://a/", tenant_id=1)
    assert len(outbound.asked) == 3
    outbound.answers["https://a/"] = document({"n": 2})
    clock.step(5)
    assert await documents.get("https://a/", tenant_id=1) == {"n": 2}


async def test_only_so_many_documents_are_kept() -> None:
    answers: dict[str, OutboundResponse | Exception] = {
        f"https://h{number}/": document({}) for number in range(MAX_DOCUMENTS + 1)
    }
    outbound = FakeOutbound(answers)
    documents = Documents(outbound, FakeClock())
    for url in (*answers, "https://h0/"):
        await documents.get(url, tenant_id=1)
    assert len(outbound.asked) == MAX_DOCUMENTS + 2


@pytest.mark.parametrize("answer", [document({}, 404), document([]), OutboundResponse(200, b"{")])
async def test_a_document_that_is_no_object_fails(answer: OutboundResponse) -> None:
    with pytest.raises(OutboundFailed):
        await Documents(FakeOutbound({"https://a/": answer}), FakeClock()).get("https://a/", tenant_id=1)


def test_defaults_of_discovery_are_those_of_the_standard() -> None:
    metadata = parse_metadata(DISCOVERY, ISSUER)
    assert (metadata.algorithms, metadata.takes_basic, metadata.names_itself) == (frozenset({"RS256"}), True, False)
    posted = parse_metadata(DISCOVERY | {"token_endpoint_auth_methods_supported": ["client_secret_post"]}, ISSUER)
    assert not posted.takes_basic


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": ISSUER + "/"},
        {"response_types_supported": ["id_token"]},
        {"response_types_supported": "code"},
        {"code_challenge_methods_supported": ["plain"]},
        {"id_token_signing_alg_values_supported": ["HS256", 7]},
        {"jwks_uri": None},
        {"jwks_uri": "http://idp.example.com/keys"},
        {"token_endpoint": "ftp://idp.example.com/"},
        {"authorization_endpoint": 7},
    ],
    ids=str,
)
def test_a_discovery_document_that_does_not_suit_fails(changes: dict[str, Any]) -> None:
    with pytest.raises(OutboundFailed):
        parse_metadata(DISCOVERY | changes, ISSUER)


@pytest.mark.parametrize("issuer", ["x" * 501, "https://a/?b", "idp", "https://a/#b"])
def test_an_issuer_in_another_form_is_refused(issuer: str) -> None:
    with pytest.raises(OutboundRefused):
        discovery_url(issuer)


async def test_an_attempt_comes_back_from_its_cookie_within_ten_minutes(keys: DataKeys) -> None:
    attempt = attempts.begin("acme", ISSUER, "client", 1_000)
    cookie = attempts.seal(keys, attempt)
    assert attempts.unseal(keys, cookie, 1_000 + 599_999) == attempt
    assert len(attempt.verifier) == 43
    assert attempt.state not in cookie
    for now_ms in (1_000 + 600_000, 999):
        with pytest.raises(SignOnRefused, match="too long"):
            attempts.unseal(keys, cookie, now_ms)
    elsewhere = keys.seal(Purpose.IDENTITY, msgspec.json.encode(attempt), "elsewhere")
    other = keys.seal(Purpose.IDENTITY, b"{}", "cookie of a single sign-on")
    for wrong in (elsewhere, other):
        with pytest.raises(SignOnRefused):
            attempts.unseal(keys, base64.urlsafe_b64encode(wrong).decode(), 1_000)
    for text in (None, "", "é", "x", "A" * 4_001, "A" * 200):
        with pytest.raises(SignOnRefused):
            attempts.unseal(keys, text, 1_000)


async def test_a_state_is_used_once(database: Database) -> None:
    attempt = attempts.begin("acme", ISSUER, "client", 1_000)
    async with database.session() as session:
        await attempts.use_once(session, attempt)
    with pytest.raises(SignOnRefused, match="before"):
        async with database.session() as session:
            await attempts.use_once(session, attempt)
    async with database.session() as session:
        await attempts.use_once(session, attempts.begin("acme", ISSUER, "client", 1_000))


def made_client(*answers: tuple[str, OutboundResponse | Exception]) -> tuple[OpenIdClient, FakeOutbound]:
    outbound = FakeOutbound({f"{ISSUER}/.well-known/openid-configuration": document(DISCOVERY), **dict(answers)})
    return OpenIdClient(outbound, "https://ai.example.com", FakeClock()), outbound


ATTEMPT = attempts.begin("acme", ISSUER, "client", 1_000)
PUBLIC = Registration(1, "acme", ISSUER, "client", "openid")
CONFIDENTIAL = Registration(1, "acme", ISSUER, "client", "openid", "a secret")


async def test_the_page_of_the_provider_gets_the_challenge_and_not_the_verifier() -> None:
    client, _ = made_client()
    url = await client.authorization_url(PUBLIC, ATTEMPT)
    asked = parse_qs(urlsplit(url).query)
    assert asked["redirect_uri"] == ["https://ai.example.com/auth/oidc/acme/callback"]
    assert asked["code_challenge"] == [ATTEMPT.challenge]
    assert ATTEMPT.verifier not in url
    assert "prompt" not in asked
    assert "prompt=login&max_age=0" in await client.authorization_url(
        PUBLIC, msgspec.structs.replace(ATTEMPT, is_fresh=True)
    )


async def test_an_answer_need_not_name_its_issuer_unless_the_provider_says_that_it_does() -> None:
    client, outbound = made_client()
    await client.check_issuer(PUBLIC, None)
    await client.check_issuer(PUBLIC, ISSUER)
    with pytest.raises(SignOnRefused):
        await client.check_issuer(PUBLIC, ISSUER + "/")
    names_itself = DISCOVERY | {"authorization_response_iss_parameter_supported": True}
    outbound.answers[f"{ISSUER}/.well-known/openid-configuration"] = document(names_itself)
    await client.discover(ISSUER, tenant_id=1, max_age_ms=0)
    with pytest.raises(SignOnRefused):
        await client.check_issuer(PUBLIC, None)


@pytest.mark.parametrize(
    ("registration", "methods", "in_header", "in_body"),
    [
        (PUBLIC, ["client_secret_basic"], False, False),
        (CONFIDENTIAL, ["client_secret_basic", "client_secret_post"], True, False),
        (CONFIDENTIAL, ["client_secret_post"], False, True),
    ],
)
async def test_the_secret_is_sent_as_the_provider_wants_it(
    registration: Registration, methods: list[str], in_header: bool, in_body: bool
) -> None:
    discovery = document(DISCOVERY | {"token_endpoint_auth_methods_supported": methods})
    client, outbound = made_client(
        (f"{ISSUER}/.well-known/openid-configuration", discovery), (DISCOVERY["token_endpoint"], document({}))
    )
    with pytest.raises(SignOnRefused, match="no ID token"):
        await client.redeem(registration, ATTEMPT, "the code")
    _, body, headers = outbound.asked[-1]
    sent = parse_qs(body.decode())
    assert (sent["code"], sent["code_verifier"]) == (["the code"], [ATTEMPT.verifier])
    assert ("Authorization" in headers, "client_secret" in sent) == (in_header, in_body)
    assert ("client_id" in sent) != in_header


async def test_keys_are_read_again_for_an_unknown_one_at_most_once_a_minute() -> None:
    token = base64.urlsafe_b64encode(b'{"alg":"RS256","kid":"new"}').rstrip(b"=").decode() + ".e30.AAAA"
    client, outbound = made_client(
        (DISCOVERY["token_endpoint"], document({"id_token": token})), (DISCOVERY["jwks_uri"], document({"keys": []}))
    )
    await client.check(ISSUER, tenant_id=1)
    clock: Any = client._clock
    for seconds, reads in ((0, 1), (59, 1), (2, 2), (1, 2), (61, 3)):
        clock.step(seconds)
        with pytest.raises(SignOnRefused, match="publish"):
            await client.redeem(PUBLIC, ATTEMPT, "code")
        assert sum(url == DISCOVERY["jwks_uri"] for url, *_ in outbound.asked) == reads, seconds


@pytest.mark.parametrize(
    ("claims", "email"),
    [
        ({"email": "a@b.c", "email_verified": True}, "a@b.c"),
        ({"email": "a@b.c", "xms_edov": "1"}, "a@b.c"),
        ({"email": "a@b.c", "email_verified": "true"}, None),
        ({"email": "a@b.c", "xms_edov": False}, None),
        ({"email": "a@b.c"}, None),
        ({"email": ["a@b.c"], "email_verified": True}, None),
    ],
    ids=str,
)
def test_only_an_address_that_the_provider_has_verified_counts(claims: dict[str, Any], email: str | None) -> None:
    assert Person(ISSUER, "ada", claims).verified_email == email


def test_claims_of_roles_are_a_text_or_a_list() -> None:
    person = Person(ISSUER, "ada", {"one": "admin", "many": ["x", 7, "admin"], "none": None, "auth_time": True})
    found = [person.has_value(claim, ["admin"]) for claim in ("one", "many", "none", "absent")]
    assert found == [True, True, False, False]
    assert person.authenticated_s is None
    assert Person(ISSUER, "ada", {"auth_time": 1.5}).authenticated_s == 1.5


@pytest.mark.parametrize(
    ("text", "domain"),
    [("Example.COM.", "example.com"), (" a-b.co.uk ", "a-b.co.uk"), ("bücher.example", "xn--bcher-kva.example")],
)
def test_domains_are_compared_in_lower_case_and_ascii(text: str, domain: str) -> None:
    assert domains.normalize_domain(text) == domain


@pytest.mark.parametrize(
    "text",
    ["", "com", "a..b", "-a.com", "a_b.com", "1.2.3.4", "a.com/x", "x" * 64 + ".com", "a." * 200 + "com", "\ud800.com"],
)
def test_what_is_no_domain_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        domains.normalize_domain(text)


async def test_a_domain_belongs_to_one_tenant(database: Database) -> None:
    one, two = await make_tenant(database), await make_tenant(database)
    async with database.session() as session:
        await domains.add_domain(session, one, "example.com", 1)
    with pytest.raises(InvalidRequest):
        async with database.session() as session:
            await domains.add_domain(session, two, "Example.com", 1)
    async with database.session() as session:
        owns = [
            await domains.owns_domain_of(session, tenant, email)
            for tenant, email in (
                (one, "ada@EXAMPLE.com"),
                (two, "ada@example.com"),
                (one, "ada@a.example.com"),
                (one, "ada@-"),
            )
        ]
        assert owns == [True, False, False, False]
        for tenant, domain in ((two, "example.com"), (one, "other.com"), (one, "-")):
            with pytest.raises(NotFound):
                await domains.remove_domain(session, tenant, domain)
        await domains.remove_domain(session, one, "example.com")
        assert await domains.list_domains(session, one) == []


async def test_the_secret_of_a_client_is_readable_only_for_its_issuer_and_tenant(
    database: Database, keys: DataKeys
) -> None:
    row = IdentityProvider(tenant_id=1, name="acme", issuer=ISSUER, client_id="client", scopes="openid", created_ms=0)
    assert providers.registration_of(keys, row) == PUBLIC
    row.sealed_client_secret = providers.seal_secret(keys, row, "a secret")
    assert providers.registration_of(keys, row) == CONFIDENTIAL
    moved: list[Callable[[IdentityProvider], None]] = [
        lambda provider: setattr(provider, "issuer", "https://evil.example.com"),
        lambda provider: setattr(provider, "tenant_id", 2),
        lambda provider: setattr(provider, "client_id", "other"),
    ]
    for move in moved:
        copy = IdentityProvider(**row.model_dump())
        move(copy)
        with pytest.raises(SealBroken):
            providers.registration_of(keys, copy)


async def test_a_provider_is_found_by_name_while_it_and_its_tenant_are_enabled(database: Database) -> None:
    tenant_id = await make_tenant(database)
    async with database.session() as session:
        row = IdentityProvider(
            tenant_id=tenant_id, name="acme", issuer=ISSUER, client_id="c", scopes="openid", created_ms=0
        )
        session.add(row)
    async with database.session() as session:
        assert (await providers.find_enabled_provider(session, "acme")).tenant_id == tenant_id
        assert await providers.get_provider(session, tenant_id + 1) is None
        with pytest.raises(NotFound):
            await providers.find_enabled_provider(session, "other")
        found = await providers.get_provider(session, tenant_id, to_change=True)
        assert found is not None
        found.disabled_ms = 1
        await session.flush()
        with pytest.raises(NotFound):
            await providers.find_enabled_provider(session, "acme")


def test_a_body_that_is_no_object_is_not_parsed() -> None:
    assert parse_object(b'{"a": 1}') == {"a": 1}
    with pytest.raises(OutboundFailed):
        parse_object(b"[" * 10_000)
