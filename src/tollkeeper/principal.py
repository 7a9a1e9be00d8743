"""Who acts. Having a `Principal` is the proof that someone was authenticated."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a user may do: own calls; the own tenant; the whole install."""

    MEMBER = "member"
    TENANT_ADMIN = "tenant_admin"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated user.

    `token_version` is the credential's generation: disabling the user or changing the password raises the stored
    one, and from then on the ledger and the account lookup refuse the older.
    """

    user_id: int
    tenant_id: int
    role: Role
    token_version: int
