"""Who acts. Having a `Principal` is the proof that someone was authenticated."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a user may do: own calls; the own tenant; the whole install."""

    MEMBER = "member"
    TENANT_ADMIN = "tenant_admin"
    OPERATOR = "operator"


class Access(StrEnum):
    """What a request asks for. A login opens everything that the role allows; an API key only what is in its scopes."""

    AI = "ai"
    """Calling models, and everything around the calls: estimates, lists of models, conversations."""
    ME = "me"
    """Reading one's own balances and charges."""
    KEYS = "keys"
    """Managing one's own API keys. In no key's scopes."""


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated user.

    `token_version` is the credential's generation: disabling the user or changing the password raises the stored
    one, and from then on the ledger and the account lookup refuse the older. With an `api_key` (its id) that key
    stands for it: it must be neither revoked nor expired.
    """

    user_id: int
    tenant_id: int
    role: Role
    token_version: int
    api_key: str | None = None
