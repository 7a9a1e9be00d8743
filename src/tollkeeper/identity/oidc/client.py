"""The client of OpenID providers: discovery, the way to the provider, and the exchange of the code for a person."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_plus, urlencode

from tollkeeper.clock import Clock
from tollkeeper.errors import SignOnRefused
from tollkeeper.identity.oidc.attempts import Attempt
from tollkeeper.identity.oidc.documents import VALID_MS, Documents, parse_object
from tollkeeper.identity.oidc.id_tokens import Expected, UnknownKey, verify
from tollkeeper.identity.oidc.metadata import Metadata, discovery_url, parse_metadata
from tollkeeper.outbound.client import OutboundClient

KEYS_READ_AGAIN_AFTER_MS = 60_000
"""A key set that lacks a token's key is read again, but not more often than this."""
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@dataclass(frozen=True, slots=True)
class Registration:
    """This server as a client of a tenant's provider (RFC 6749, section 2). Without a secret, it is a public client."""

    tenant_id: int
    name: str
    issuer: str
    client_id: str
    scopes: str
    client_secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Person:
    """Whom the provider has authenticated: the verified claims of an ID token."""

    issuer: str
    subject: str
    claims: Mapping[str, Any] = field(repr=False)

    @property
    def verified_email(self) -> str | None:
        """The e-mail address, if the provider says that it is the person's.

        Entra ID says so with `xms_edov`, the others with `email_verified` (OpenID Connect Core 1.0, 5.1).
        """
        email = self.claims.get("email")
        is_verified = self.claims.get("email_verified") is True or self.claims.get("xms_edov") in (True, 1, "1", "true")
        return email if isinstance(email, str) and is_verified else None

    @property
    def authenticated_s(self) -> float | None:
        """When the person proved to the provider who they are, in seconds since the epoch, if it says so."""
        at_s = self.claims.get("auth_time")
        return at_s if isinstance(at_s, int | float) and not isinstance(at_s, bool) else None

    def has_value(self, claim: str, values: list[str]) -> bool:
        """Whether a claim, which is a text or a list, has one of the values."""
        found = self.claims.get(claim)
        held = found if isinstance(found, list) else [found]
        return any(isinstance(one, str) and one in values for one in held)


class OpenIdClient:
    """Speaks to the providers of all tenants. `base_url` is the server's own, for redirect URIs."""

    def __init__(self, outbound: OutboundClient, base_url: str, clock: Clock) -> None:
        self._outbound = outbound
        self._documents = Documents(outbound, clock)
        self._base_url = base_url
        self._clock = clock

    def redirect_uri(self, name: str) -> str:
        """Where the provider sends the browser back to. It is entered at the provider."""
        return f"{self._base_url}/auth/oidc/{name}/callback"

    async def discover(self, issuer: str, *, tenant_id: int, max_age_ms: int = VALID_MS) -> Metadata:
        """Raises OutboundError, Overloaded."""
        document = await self._documents.get(discovery_url(issuer), tenant_id=tenant_id, max_age_ms=max_age_ms)
        return parse_metadata(document, issuer)

    async def check(self, issuer: str, *, tenant_id: int) -> Metadata:
        """Read the configuration of a tenant's provider and its keys anew. Raises OutboundError, Overloaded."""
        metadata = await self.discover(issuer, tenant_id=tenant_id, max_age_ms=0)
        await self._documents.get(metadata.jwks_uri, tenant_id=tenant_id, max_age_ms=0)
        return metadata

    async def authorization_url(self, registration: Registration, attempt: Attempt) -> str:
        """The URL that starts the login at the provider. Raises OutboundError, Overloaded."""
        metadata = await self.discover(registration.issuer, tenant_id=registration.tenant_id)
        parameters = {
            "response_type": "code",
            "client_id": registration.client_id,
            "redirect_uri": self.redirect_uri(registration.name),
            "scope": registration.scopes,
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": attempt.challenge,
            "code_challenge_method": "S256",
        }
        if attempt.is_fresh:
            parameters |= {"prompt": "login", "max_age": "0"}
        separator = "&" if "?" in metadata.authorization_endpoint else "?"
        return f"{metadata.authorization_endpoint}{separator}{urlencode(parameters)}"

    async def check_issuer(self, registration: Registration, issuer: str | None) -> None:
        """Refuse the answer of another provider (RFC 9207). Raises SignOnRefused, OutboundError, Overloaded."""
        metadata = await self.discover(registration.issuer, tenant_id=registration.tenant_id)
        if issuer != registration.issuer and (issuer is not None or metadata.names_itself):
            raise SignOnRefused("The answer is from another identity provider. Start again.")

    async def redeem(self, registration: Registration, attempt: Attempt, code: str) -> Person:
        """Exchange an authorization code for the person. Raises SignOnRefused, OutboundError, Overloaded."""
        metadata = await self.discover(registration.issuer, tenant_id=registration.tenant_id)
        token = await self._exchange(registration, metadata, attempt, code)
        expected = Expected(registration.issuer, registration.client_id, attempt.nonce, metadata.algorithms)
        claims = await self._verify(registration.tenant_id, token, metadata.jwks_uri, expected)
        return Person(registration.issuer, claims["sub"], claims)

    async def _exchange(self, registration: Registration, metadata: Metadata, attempt: Attempt, code: str) -> str:
        """The ID token (RFC 6749, 4.1.3 and 4.1.4)."""
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri(registration.name),
            "code_verifier": attempt.verifier,
        }
        headers = dict(_FORM)
        if registration.client_secret is not None and metadata.takes_basic:
            headers["Authorization"] = _basic(registration.client_id, registration.client_secret)
        else:
            fields["client_id"] = registration.client_id
            if registration.client_secret is not None:
                fields["client_secret"] = registration.client_secret
        body = urlencode(fields).encode()
        response = await self._outbound.post(metadata.token_endpoint, body, headers, tenant_id=registration.tenant_id)
        if response.status != 200:
            raise SignOnRefused(
                f"The identity provider did not accept the code: it answered {response.status}. Start again. If that"
                " does not help, check the client's id and secret, and the redirect URI at the provider."
            )
        token = parse_object(response.body).get("id_token")
        if not isinstance(token, str):
            raise SignOnRefused("The identity provider sent no ID token. Its scopes must include openid.")
        return token

    async def _verify(self, tenant_id: int, token: str, jwks_uri: str, expected: Expected) -> dict[str, Any]:
        """The verified claims. Raises SignOnRefused, OutboundError, Overloaded."""
        for max_age_ms in (VALID_MS, KEYS_READ_AGAIN_AFTER_MS):
            keys = await self._documents.get(jwks_uri, tenant_id=tenant_id, max_age_ms=max_age_ms)
            try:
                return verify(token, keys, expected, self._clock.now_ms() / 1000)
            except UnknownKey:
                continue
        raise SignOnRefused("The ID token is signed with a key that the identity provider does not publish.")


def _basic(client_id: str, secret: str) -> str:
    """The header of HTTP Basic authentication. Both parts are encoded as in forms (RFC 6749, 2.3.1)."""
    pair = f"{quote_plus(client_id)}:{quote_plus(secret)}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"
