"""The users who call: each has a quota under the tenant's quota, and no quota is ever reached."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.load import http_request, request_json
from tollkeeper.bootstrap.ledger import make_ledger
from tollkeeper.database.engine import Database
from tollkeeper.identity import accounts
from tollkeeper.identity.passwords import Passwords
from tollkeeper.principal import Role
from tollkeeper.quota.rules.limit_changes import SetLimit
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.page import QuotaKey, Subject
from tollkeeper.quota.rules.windows import Period
from tollkeeper.settings import Settings

TENANTS, USERS_PER_TENANT = 2, 4
PASSWORD = "the bench has no secrets"
LIMIT = 10**12
USER_PERIOD, TENANT_PERIOD = Period.DAY, Period.MONTH


@dataclass(frozen=True, slots=True)
class User:
    """A user who is logged in."""

    tenant: str
    email: str
    token: str


async def populate(settings: Settings, tenants: int = TENANTS) -> list[tuple[str, str]]:
    """Fill an empty, migrated database. Returns the tenant name and e-mail address of every user.

    The tenants are numbered from 1, in the order of their creation.
    """
    passwords = Passwords(settings.bcrypt_rounds)
    password_hash = await passwords.hash(PASSWORD)
    passwords.close()
    database = Database(settings.database_url)
    emails: list[tuple[str, str]] = []
    limits: list[SetLimit] = []
    async with database.session() as session:
        for tenant_number in range(1, tenants + 1):
            tenant = await accounts.create_tenant(session, f"tenant-{tenant_number}")
            assert tenant.id is not None
            limits.append(SetLimit(QuotaKey(Subject(tenant.id), Unit.TOKENS, TENANT_PERIOD), LIMIT))
            for user_number in range(1, USERS_PER_TENANT + 1):
                email = f"user-{user_number}@{tenant.name}.example"
                user = await accounts.create_user(session, tenant.name, email, password_hash, Role.MEMBER)
                limits.append(SetLimit(QuotaKey(Subject(tenant.id, user.id), Unit.TOKENS, USER_PERIOD), LIMIT))
                emails.append((tenant.name, email))
    await database.close()
    ledger = make_ledger(settings)
    ledger.start()
    await ledger.administer(tuple(limits), actor="bench", reason="benchmark")
    await ledger.stop()
    return emails


async def log_in(port: int, emails: Sequence[tuple[str, str]]) -> list[User]:
    """Log every user in through the API."""
    users = []
    for tenant, email in emails:
        body = {"username": email, "password": PASSWORD}
        response = await request_json(port, http_request("POST", "/auth/login", body=body))
        users.append(User(tenant, email, response["access_token"]))
    return users
