"""The authenticated caller. Only authentication creates a `Principal`, so having one is the proof of it."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a user may manage: only their own calls, their tenant, or the whole installation."""

    MEMBER = "member"
    TENANT_ADMIN = "tenant_admin"
    OPERATOR = "operator"


class Access(StrEnum):
    """What a request needs access to. A login has all the access of its role, an API key only that of its scopes."""

    AI = "ai"
    """Calling models, estimating calls, listing models, and conversations."""
    ME = "me"
    """Reading the caller's own balances and charges."""
    KEYS = "keys"
    """Managing the caller's own API keys. No API key has this scope."""


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated user.

    `token_version` is the version of the access token. Disabling the user or changing the password raises the stored
    version; the ledger and the account lookup then refuse older tokens. `api_key` is the id of the API key that the
    caller used, if any: the key must then be neither revoked nor expired, and `token_version` is not compared.
    """

    user_id: int
    tenant_id: int
    role: Role
    token_version: int
    api_key: str | None = None
