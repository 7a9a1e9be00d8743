"""GET /auth-status: whether the credentials of the AI providers are valid, as calls have shown."""

from collections.abc import Iterable
from enum import StrEnum

from fastapi import APIRouter
from pydantic import BaseModel

from tollkeeper.api.dependencies import ServicesDep
from tollkeeper.api.formats import Moment, iso
from tollkeeper.api.onlookers import OPTIONAL_LOGIN, SeesReasons
from tollkeeper.providers.credentials import CredentialType, ProviderCredential

router = APIRouter(tags=["operations"])


class CredentialState(StrEnum):
    """`unknown`: no call has shown it since the process started."""

    VALID = "valid"
    INVALID = "invalid"
    UNKNOWN = "unknown"


class CredentialResponse(BaseModel):
    """A credential of a provider, without its secret. `tenant_id` and `key_id` are those of a tenant's own key."""

    type: CredentialType
    state: CredentialState
    since: Moment | None
    tenant_id: int | None
    key_id: str | None


class ProviderCredentialsResponse(BaseModel):
    """The credentials of one provider: the operator's first, then those of tenants."""

    provider: str
    credentials: list[CredentialResponse]


class AuthStatusResponse(BaseModel):
    """`status` is `invalid` if a provider refuses the operator's credential; else `valid` if one has accepted it.

    `providers` is null unless the caller is an operator. It is what the process that responds has seen.
    """

    status: CredentialState
    providers: list[ProviderCredentialsResponse] | None


_EXAMPLES = {
    "operator": {
        "value": {
            "status": "valid",
            "providers": [
                {
                    "provider": "openai",
                    "credentials": [
                        {
                            "type": "api_key",
                            "state": "valid",
                            "since": "2027-11-20T09:30:00Z",
                            "tenant_id": None,
                            "key_id": None,
                        },
                        {
                            "type": "tenant_key",
                            "state": "invalid",
                            "since": "2027-11-20T09:31:00Z",
                            "tenant_id": 3,
                            "key_id": "pk_0123456789abcdef01234567",
                        },
                    ],
                }
            ],
        }
    },
    "anyone": {"value": {"status": "valid", "providers": None}},
}


@router.get(
    "/auth-status",
    summary="State of the providers' credentials",
    responses={
        200: {
            "description": "What calls have shown of the credentials",
            "content": {"application/json": {"examples": _EXAMPLES}},
        }
    },
    openapi_extra=OPTIONAL_LOGIN,
)
async def get_auth_status(services: ServicesDep, detailed: SeesReasons) -> AuthStatusResponse:
    """A provider that answers 401 or 403 makes its credential invalid, an answer makes it valid. No request is sent to
    find out. Operators, and bearers of TOLLKEEPER_METRICS_TOKEN, see each credential.
    """
    found = services.gateway.catalog.credentials()
    own = [_state(one) for one in found if one.type is not CredentialType.TENANT_KEY]
    status = next((state for state in (CredentialState.INVALID, CredentialState.VALID) if state in own), None)
    return AuthStatusResponse(
        status=status or CredentialState.UNKNOWN, providers=_by_provider(found) if detailed else None
    )


def _by_provider(found: Iterable[ProviderCredential]) -> list[ProviderCredentialsResponse]:
    by_provider: dict[str, list[CredentialResponse]] = {}
    for one in found:
        by_provider.setdefault(one.provider, []).append(_response(one))
    return [ProviderCredentialsResponse(provider=name, credentials=all_of) for name, all_of in by_provider.items()]


def _response(one: ProviderCredential) -> CredentialResponse:
    since = iso(one.verdict.since_ms) if one.verdict is not None else None
    return CredentialResponse(type=one.type, state=_state(one), since=since, tenant_id=one.tenant_id, key_id=one.key_id)


def _state(one: ProviderCredential) -> CredentialState:
    if one.verdict is None:
        return CredentialState.UNKNOWN
    return CredentialState.VALID if one.verdict.valid else CredentialState.INVALID
