"""The tables of identity."""

from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import BigInteger, Text
from sqlmodel import Field, SQLModel

from tollkeeper.principal import Role


def _now() -> datetime:
    """Returns the time for `created_at`. The system's clock is enough, since no rule reads that column."""
    return datetime.now(UTC)


class UserKind(StrEnum):
    """Whether a user is a person or a program."""

    PERSON = "person"
    SERVICE = "service"


class Tenant(SQLModel, table=True):
    """A customer. Its users see no other tenant's data; it has quotas of its own, which its users share.

    `default_limit` tokens per `default_period` are the quota of each user who is created without one, if set.
    `cache_scope` says for whom the response cache is on: a CacheScope; None: only for calls that ask for it.
    `judge_model`, a model of the catalog, rates answers by the `judge_rubric`; None: answers cannot be rated.
    This `evaluate_share` of the answers is rated anyway, at the cost of the service account `evaluate_account`.
    Days, weeks and months of its quotas begin at midnight in `time_zone`, months on the `reset_day`.
    `plan_id` is the plan that it is on, if any: rates, allowed models, retention, and quotas of new users.
    `content_logging`: the contents of its calls are stored, for `content_days`, or as long as the operator allows.
    """

    __tablename__ = "tenants"

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(max_length=100, unique=True)
    default_limit: int | None = Field(default=None, sa_type=BigInteger)
    default_period: str | None = Field(default=None, max_length=10)
    content_logging: bool = False
    content_days: int | None = None
    cache_scope: str | None = Field(default=None, max_length=10)
    judge_model: str | None = Field(default=None, max_length=200)
    judge_rubric: str | None = Field(default=None, max_length=4_000)
    evaluate_share: float = 0.0
    evaluate_account: int | None = None
    time_zone: str = Field(default="UTC", max_length=64)
    reset_day: int = 1
    plan_id: int | None = None
    disabled_at: datetime | None = None
    created_at: datetime = Field(default_factory=_now)


class User(SQLModel, table=True):
    """A person who can log in, or a service account, which only has API keys.

    An empty `password_hash` matches no password. Each increment of `token_version` invalidates all earlier tokens. An
    erased user stays disabled, and has a placeholder for an e-mail address.
    """

    __tablename__ = "users"

    id: int | None = Field(default=None, primary_key=True)
    tenant_id: int = Field(foreign_key="tenants.id", index=True)
    email: str = Field(max_length=254, unique=True)
    password_hash: str = Field(max_length=255, repr=False)
    role: str = Field(default=Role.MEMBER.value, max_length=20)
    kind: str = Field(default=UserKind.PERSON.value, max_length=10)
    token_version: int = 0
    disabled_at: datetime | None = None
    erased_at: datetime | None = None
    created_at: datetime = Field(default_factory=_now)


class ApiKey(SQLModel, table=True):
    """A key with which programs authenticate as one user. Only its SHA-256 and its prefix are stored.

    `scopes` are separated by spaces. `models`, `surfaces` and `networks` are JSON lists of what the key is limited to;
    None is no limit. `tags` is a JSON object of the names and values that all its calls have. Times are milliseconds
    since the epoch, UTC. Without `expires_ms`, the key is valid until it is revoked.
    """

    __tablename__ = "api_keys"

    id: str = Field(primary_key=True, max_length=40)
    tenant_id: int = Field(foreign_key="tenants.id")
    user_id: int = Field(foreign_key="users.id")
    name: str = Field(max_length=100)
    prefix: str = Field(max_length=20)
    key_hash: str = Field(max_length=64, unique=True, repr=False)
    scopes: str = Field(max_length=100)
    models: str | None = Field(default=None, sa_type=Text)
    surfaces: str | None = Field(default=None, sa_type=Text)
    networks: str | None = Field(default=None, sa_type=Text)
    tags: str | None = Field(default=None, sa_type=Text)
    created_ms: int = Field(sa_type=BigInteger)
    expires_ms: int | None = Field(default=None, sa_type=BigInteger)
    revoked_ms: int | None = Field(default=None, sa_type=BigInteger)

    def is_valid(self, now_ms: int) -> bool:
        """Whether the key is neither revoked nor expired."""
        return self.revoked_ms is None and (self.expires_ms is None or now_ms < self.expires_ms)


class UserGroup(SQLModel, table=True):
    """A team or project of a tenant. Its name is unique in the tenant, and never changes. A closed group has no members
    any more; its quotas and charges stay.
    """

    __tablename__ = "user_groups"

    id: int | None = Field(default=None, primary_key=True)
    tenant_id: int = Field(foreign_key="tenants.id")
    name: str = Field(max_length=64)
    created_ms: int = Field(sa_type=BigInteger)
    closed_ms: int | None = Field(default=None, sa_type=BigInteger)


class GroupMember(SQLModel, table=True):
    """A user's membership in a group. Calls that name no group count for the user's default one, if there is one."""

    __tablename__ = "group_members"

    tenant_id: int = Field(primary_key=True, foreign_key="tenants.id")
    group_id: int = Field(primary_key=True, foreign_key="user_groups.id")
    user_id: int = Field(primary_key=True, foreign_key="users.id")
    is_default: bool = False


class KeyTagSecret(SQLModel, table=True):
    """A secret with which the tags of API keys are made. The newest makes tags; all of them verify.

    It is no secret from readers of the database: a genuine tag only leads to the look-up of the key's hash.
    """

    __tablename__ = "key_tag_secrets"

    id: int | None = Field(default=None, primary_key=True)
    secret: bytes = Field(repr=False)
    created_ms: int = Field(sa_type=BigInteger)


class ApiKeyUse(SQLModel, table=True):
    """When an API key was last used. A table of its own, because a change of `api_keys` raises the policy version."""

    __tablename__ = "api_key_uses"

    key_id: str = Field(primary_key=True, foreign_key="api_keys.id", max_length=40)
    tenant_id: int = Field(foreign_key="tenants.id")
    used_ms: int = Field(sa_type=BigInteger)


class Session(SQLModel, table=True):
    """A login, until the user logs out or it expires. Its refresh token is stored as a hash, and replaced by each use.

    `method` is how the user logged in. `role` and `token_version` are the user's at the login: a session of others has
    ended. `generation` counts the refresh tokens of the session; the newest was made at `rotated_ms`. The session's
    access tokens end at `access_ends_ms` at the latest. `address` and `user_agent` are those of its last use.
    """

    __tablename__ = "sessions"

    id: str = Field(primary_key=True, max_length=40)
    tenant_id: int = Field(foreign_key="tenants.id")
    user_id: int = Field(foreign_key="users.id")
    method: str = Field(max_length=10)
    role: str = Field(max_length=20)
    token_version: int
    generation: int
    token_hash: str = Field(max_length=64, repr=False)
    created_ms: int = Field(sa_type=BigInteger)
    authenticated_ms: int = Field(sa_type=BigInteger)
    rotated_ms: int = Field(sa_type=BigInteger)
    access_ends_ms: int = Field(sa_type=BigInteger)
    expires_ms: int = Field(sa_type=BigInteger)
    revoked_ms: int | None = Field(default=None, sa_type=BigInteger)
    address: str = Field(max_length=45)
    user_agent: str = Field(max_length=200)


class TotpSecret(SQLModel, table=True):
    """A user's second factor (RFC 6238), once it is confirmed. `last_counter` is that of the newest accepted code.

    `recovery_hashes` is a JSON list. `failures` counts the wrong codes since the last right one; the last of them was
    sent at `failed_ms`.
    """

    __tablename__ = "totp_secrets"

    user_id: int = Field(primary_key=True, foreign_key="users.id")
    tenant_id: int = Field(foreign_key="tenants.id")
    sealed_secret: bytes = Field(repr=False)
    recovery_hashes: str = Field(sa_type=Text, repr=False)
    last_counter: int | None = Field(default=None, sa_type=BigInteger)
    failures: int = 0
    failed_ms: int = Field(default=0, sa_type=BigInteger)
    created_ms: int = Field(sa_type=BigInteger)
    confirmed_ms: int | None = Field(default=None, sa_type=BigInteger)


class OneTimeLink(SQLModel, table=True):
    """A link that sets a user's password, or creates a user who was invited. Its token is stored as a hash.

    A reset has `user_id`, and the user's `token_version`: once that has risen, the link has no effect. An invitation
    has the `email` and `role` of the user to be. `created_by` is the administrator; None if it was a command.
    """

    __tablename__ = "one_time_links"

    id: str = Field(primary_key=True, max_length=40)
    token_hash: str = Field(max_length=64, unique=True, repr=False)
    kind: str = Field(max_length=12)
    tenant_id: int = Field(foreign_key="tenants.id")
    user_id: int | None = Field(default=None, foreign_key="users.id")
    token_version: int | None = None
    email: str | None = Field(default=None, max_length=254)
    role: str | None = Field(default=None, max_length=20)
    created_by: int | None = Field(default=None, foreign_key="users.id")
    created_ms: int = Field(sa_type=BigInteger)
    expires_ms: int = Field(sa_type=BigInteger)
    used_ms: int | None = Field(default=None, sa_type=BigInteger)


class TenantDomain(SQLModel, table=True):
    """A domain of e-mail addresses that belongs to a tenant, as an operator has verified."""

    __tablename__ = "tenant_domains"

    domain: str = Field(primary_key=True, max_length=253)
    tenant_id: int = Field(foreign_key="tenants.id")
    created_ms: int = Field(sa_type=BigInteger)


class IdentityProvider(SQLModel, table=True):
    """The OpenID provider of a tenant, with which its users log in. `admin_values` is a JSON list."""

    __tablename__ = "identity_providers"

    id: int | None = Field(default=None, primary_key=True)
    tenant_id: int = Field(foreign_key="tenants.id", unique=True)
    name: str = Field(max_length=40, unique=True)
    issuer: str = Field(max_length=500)
    client_id: str = Field(max_length=200)
    sealed_client_secret: bytes | None = Field(default=None, repr=False)
    scopes: str = Field(max_length=200)
    role_claim: str | None = Field(default=None, max_length=100)
    admin_values: str | None = Field(default=None, sa_type=Text)
    disabled_ms: int | None = Field(default=None, sa_type=BigInteger)
    created_ms: int = Field(sa_type=BigInteger)


class Identity(SQLModel, table=True):
    """Who a user is at their tenant's OpenID provider. The pair of issuer and subject never changes its user.

    It is the tenant's own: what another tenant links to the same pair has no effect on it.
    """

    __tablename__ = "identities"

    tenant_id: int = Field(primary_key=True, foreign_key="tenants.id")
    issuer: str = Field(primary_key=True, max_length=500)
    subject: str = Field(primary_key=True, max_length=255)
    user_id: int = Field(foreign_key="users.id")
    created_ms: int = Field(sa_type=BigInteger)


class UsedOidcState(SQLModel, table=True):
    """The state of a single sign-on that has ended, as a hash: it cannot end twice."""

    __tablename__ = "used_oidc_states"

    state_hash: str = Field(primary_key=True, max_length=64)
    expires_ms: int = Field(sa_type=BigInteger)
