"""The authenticated caller. Only authentication creates a `Principal`, so having one is the proof of it."""

from dataclasses import dataclass, field
from enum import StrEnum

from tollkeeper.key_limits import NO_LIMITS, KeyLimits
from tollkeeper.tags import NO_TAGS, Tags

GROUP_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"


class Role(StrEnum):
    """What a user may manage: only their own calls, their tenant, or the whole installation."""

    MEMBER = "member"
    TENANT_ADMIN = "tenant_admin"
    OPERATOR = "operator"

    @property
    def rank(self) -> int:
        """The place of the role in the order of roles: a higher one may do all that a lower one may."""
        return list(Role).index(self)


class Access(StrEnum):
    """What a request needs access to. A login has all the access of its role, an API key only that of its scopes."""

    AI = "ai"
    """Calling models, estimating calls, listing models, and conversations."""
    ME = "me"
    """Reading the caller's own balances and charges."""
    KEYS = "keys"
    """Managing the caller's own API keys, sessions and second factor. No API key has this scope."""
    ADMIN = "admin"
    """Administration, within the caller's role. No API key has this scope."""


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated user.

    `token_version` is the version of the access token. Disabling the user or changing the password raises the stored
    version; the ledger and the account lookup then refuse older tokens. `api_key` is the id of the API key that the
    caller used, if any: the key must then be neither revoked nor expired, and `token_version` is not compared.
    `session` is the id of the login that the access token is from, and `authenticated_ms` when the user proved who they
    are in it. `limits` are those of the API key. `group` is the name of the group that the request counts for; None:
    the user's default group, if there is one. `conversation` is the name of the one that the call continues. `tags` are
    those of the API key until a request adds its own; None: the call is the server's own work for the user, and needs
    no tags. None of these makes another principal.
    """

    user_id: int
    tenant_id: int
    role: Role
    token_version: int
    api_key: str | None = None
    session: str | None = field(default=None, compare=False)
    authenticated_ms: int = field(default=0, compare=False)
    limits: KeyLimits = field(default=NO_LIMITS, compare=False)
    group: str | None = field(default=None, compare=False)
    conversation: str | None = field(default=None, compare=False)
    tags: Tags | None = field(default=NO_TAGS, compare=False)
