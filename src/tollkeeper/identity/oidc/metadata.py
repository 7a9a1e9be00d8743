"""What a provider says of itself (OpenID Connect Discovery 1.0, section 3; RFC 8414)."""

from dataclasses import dataclass
from typing import Any

from tollkeeper.errors import OutboundFailed, OutboundRefused
from tollkeeper.identity.oidc.id_tokens import ALGORITHMS
from tollkeeper.outbound.client import check_url

MAX_ISSUER_LENGTH = 500
DEFAULT_METHODS = ["client_secret_basic"]
"""Of authentication at the token endpoint, if the document names none."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """The part of a discovery document that single sign-on needs. `algorithms` may sign ID tokens."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    algorithms: frozenset[str]
    takes_basic: bool
    """Whether the client's secret is sent in a header (RFC 6749, 2.3.1), not in the body."""
    names_itself: bool
    """Whether each authorization response has the parameter `iss` (RFC 9207)."""


def discovery_url(issuer: str) -> str:
    """Raises OutboundRefused for an issuer that is not a URL without query and fragment."""
    if len(issuer) > MAX_ISSUER_LENGTH or "?" in issuer:
        raise OutboundRefused(f"An issuer is a URL of at most {MAX_ISSUER_LENGTH} characters, without a query.")
    check_url(issuer)
    return f"{issuer.rstrip('/')}/.well-known/openid-configuration"


def parse_metadata(document: dict[str, Any], issuer: str) -> Metadata:
    """Raises OutboundFailed unless the document is one of this issuer, with all that single sign-on needs."""
    if document.get("issuer") != issuer:
        raise OutboundFailed("The discovery document names another issuer. Enter the issuer exactly as it does.")
    if "code" not in _texts(document, "response_types_supported", ["code"]):
        raise OutboundFailed("The identity provider does not support the authorization code flow.")
    if "S256" not in _texts(document, "code_challenge_methods_supported", ["S256"]):
        raise OutboundFailed("The identity provider does not support PKCE with S256.")
    algorithms = frozenset(_texts(document, "id_token_signing_alg_values_supported", ["RS256"])) & ALGORITHMS
    if not algorithms:
        raise OutboundFailed("The identity provider signs with no algorithm that is accepted, such as RS256 or ES256.")
    methods = _texts(document, "token_endpoint_auth_methods_supported", DEFAULT_METHODS)
    return Metadata(
        issuer=issuer,
        authorization_endpoint=_url(document, "authorization_endpoint", issuer),
        token_endpoint=_url(document, "token_endpoint", issuer),
        jwks_uri=_url(document, "jwks_uri", issuer),
        algorithms=algorithms,
        takes_basic="client_secret_basic" in methods,
        names_itself=document.get("authorization_response_iss_parameter_supported") is True,
    )


def _texts(document: dict[str, Any], name: str, default: list[str]) -> list[str]:
    found = document.get(name, default)
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def _url(document: dict[str, Any], name: str, issuer: str) -> str:
    """A URL of the document. One without TLS is only possible where the issuer has none, either."""
    found = document.get(name)
    try:
        url = check_url(found) if isinstance(found, str) else None
    except OutboundRefused:
        url = None
    if url is None or not isinstance(found, str) or (url.scheme == "http" and issuer.startswith("https:")):
        raise OutboundFailed(f"The discovery document has no valid {name}.")
    return found
