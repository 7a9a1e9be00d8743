"""The first start: an operator, a tenant and a member with a quota, and the three lines that do the main job."""

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


async def prepare(settings: Settings, database: Database) -> dict[str, str] | None:
    """Fill an empty database. Returns e-mail address → password, or None when there are users already."""
    async with database.session() as session:
        if await accounts.any_user(session):
            return None
    credentials = {email: secrets.token_urlsafe(12) for email in (OPERATOR, MEMBER)}
    passwords = Passwords(settings.bcrypt_rounds)
    hashes = {email: await passwords.hash(password) for email, password in credentials.items()}
    passwords.close()
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
    await ledger.administer(limits, actor="first run", reason="so that there is something to spend")
    await ledger.stop()
    return credentials


def show_credentials(credentials: dict[str, str], url: str) -> None:
    """Print what is never shown again, and how to use it at this URL."""
    base = shlex.quote(url)  # to some shells, the brackets of an IPv6 address are a pattern
    read_token = "python3 -c 'import json,sys; print(json.load(sys.stdin)[\"access_token\"])'"  # noqa: S105
    ask = f"{base}/ai/query -H \"Authorization: Bearer $TOKEN\" -H 'Content-Type: application/json'"
    typer.echo(
        f"""
First start. These passwords are shown only now:

  operator  {OPERATOR}  {credentials[OPERATOR]}
  member    {MEMBER}    {credentials[MEMBER]}   ({MEMBER_LIMIT:,} tokens a day, tenant "{MEMBER_TENANT}")

Log in, ask, and see the quota fall by exactly the cost:

TOKEN=$(curl -s {base}/auth/login -d username={MEMBER} -d password={credentials[MEMBER]} | {read_token})
curl -s -w '\\n' {ask} -d '{{"prompt": "Good morning, Tollkeeper"}}'
curl -s -w '\\n' {base}/me/quota -H "Authorization: Bearer $TOKEN"
"""
    )
