"""The first start: creates an operator, a tenant and a member with a quota, and prints three example calls."""

import secrets
import shlex

import typer

from tollkeeper.bootstrap import make_ledger
from tollkeeper.db import Database
from tollkeeper.identity import accounts
from tollkeeper.identity.passwords import Passwords
from tollkeeper.principal import Role
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import SetLimit
from tollkeeper.quota.rules.page import QuotaKey, Subject
from tollkeeper.quota.rules.windows import Period
from tollkeeper.settings import Settings

OPERATOR, MEMBER = "operator@example.com", "member@example.com"
OPERATOR_TENANT, MEMBER_TENANT = "operators", "demo"
MEMBER_LIMIT, TENANT_LIMIT = 100_000, 1_000_000


async def populate(settings: Settings, database: Database) -> dict[str, str] | None:
    """Fill an empty database. Returns e-mail address → password, or None when the database has users already."""
    async with database.session() as session:
        if await accounts.has_users(session):
            return None
    passwords = {email: secrets.token_urlsafe(12) for email in (OPERATOR, MEMBER)}
    hasher = Passwords(settings.bcrypt_rounds)
    hashes = {email: await hasher.hash(password) for email, password in passwords.items()}
    hasher.close()
    async with database.session() as session:
        await accounts.create_tenant(session, OPERATOR_TENANT)
        tenant = await accounts.create_tenant(session, MEMBER_TENANT)
        await accounts.create_user(session, OPERATOR_TENANT, OPERATOR, hashes[OPERATOR], Role.OPERATOR)
        member = await accounts.create_user(session, MEMBER_TENANT, MEMBER, hashes[MEMBER], Role.MEMBER)
    assert tenant.id is not None
    ledger = make_ledger(settings)
    ledger.start()
    limits = (
        SetLimit(QuotaKey(Subject(tenant.id, member.id), Unit.TOKENS, Period.DAY), MEMBER_LIMIT),
        SetLimit(QuotaKey(Subject(tenant.id), Unit.TOKENS, Period.MONTH), TENANT_LIMIT),
    )
    await ledger.administer(limits, actor="first run", reason="initial quota")
    await ledger.stop()
    return passwords


def print_passwords(passwords: dict[str, str], url: str) -> None:
    """Print the passwords, which are not stored in plain text, and example calls to this URL."""
    base = shlex.quote(url)  # some shells expand the brackets of an IPv6 address
    read_token = "python3 -c 'import json,sys; print(json.load(sys.stdin)[\"access_token\"])'"  # noqa: S105
    query = f"{base}/ai/query -H \"Authorization: Bearer $TOKEN\" -H 'Content-Type: application/json'"
    typer.echo(
        f"""
First start. These passwords are not shown again:

  operator  {OPERATOR}  {passwords[OPERATOR]}
  member    {MEMBER}    {passwords[MEMBER]}   ({MEMBER_LIMIT:,} tokens a day, tenant "{MEMBER_TENANT}")

Log in, send a prompt, and see the quota decrease by exactly the cost:

TOKEN=$(curl -s {base}/auth/login -d username={MEMBER} -d password={passwords[MEMBER]} | {read_token})
curl -s -w '\\n' {query} -d '{{"prompt": "Good morning, Tollkeeper"}}'
curl -s -w '\\n' {base}/me/quota -H "Authorization: Bearer $TOKEN"
"""
    )
