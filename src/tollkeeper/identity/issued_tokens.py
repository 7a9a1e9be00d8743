"""What opens a session, and what it gives: how a user has proved who they are, from where, and their tokens."""

from dataclasses import dataclass, field
from enum import StrEnum


class Method(StrEnum):
    """How a user has proved who they are."""

    PASSWORD = "password"  # noqa: S105 - the name of a method
    TOTP = "totp"
    """The password and a code of the second factor."""
    RECOVERY = "recovery"
    """The password and a recovery code."""
    OIDC = "oidc"
    LINK = "link"
    """A one-time link: an invitation, or a reset of the password."""


@dataclass(frozen=True, slots=True)
class Client:
    """Who sends a request, as far as the network tells."""

    address: str
    user_agent: str = ""
    correlation_id: str = ""


@dataclass(frozen=True, slots=True)
class IssuedTokens:
    """The tokens of a session. `expires_in` is the access token's lifetime in seconds; it ends at `access_ends_ms`."""

    session_id: str
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_in: int
    access_ends_ms: int
    session_expires_ms: int
