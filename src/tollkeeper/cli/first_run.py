"""The first start: creates an operator, a tenant and a member with a quota, and prints three example calls.

The passwords are shown at a terminal. Elsewhere, where the output may be kept in a log, they are written to a file.
"""

import os
import secrets
import shlex
import sys
from pathlib import Path

from tollkeeper.administration.administrator import commanding
from tollkeeper.administration.tenants import create_tenant
from tollkeeper.administration.users import NewUser, create_user
from tollkeeper.audit_log.log import AuditLog
from tollkeeper.bootstrap.ledger import make_ledger
from tollkeeper.cli.output import command_name, print_line
from tollkeeper.clock import SystemClock
from tollkeeper.database.engine import Database
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.errors import ConfigurationError
from tollkeeper.identity import accounts
from tollkeeper.identity.passwords import Passwords
from tollkeeper.installation_secret import DATA_KEY
from tollkeeper.principal import Role
from tollkeeper.private_files import create_private_file
from tollkeeper.quota.rules.limit_changes import SetLimit
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.page import QuotaKey, Subject
from tollkeeper.quota.rules.windows import Period
from tollkeeper.settings import Settings

OPERATOR, MEMBER = "operator@example.com", "member@example.com"
OPERATOR_TENANT, MEMBER_TENANT = "operators", "demo"
MEMBER_LIMIT, TENANT_LIMIT = 1_000_000, 10_000_000
"""A call holds its whole output limit, and clients ask for up to 128,000 tokens by default."""
PASSWORDS_FILE = "first-passwords"
ACTOR = "first run"


async def populate(settings: Settings, database: Database) -> dict[str, str] | None:
    """Fill an empty database. Returns e-mail address → password, or None when the database has users already.

    Where standard output is not a terminal, the passwords are in the file at `passwords_path`, too. Raises
    ConfigurationError when that cannot be written.
    """
    async with database.session() as session:
        if await accounts.has_users(session):
            return None
    passwords = {email: secrets.token_urlsafe(12) for email in (OPERATOR, MEMBER)}
    if not sys.stdout.isatty():
        _write_passwords(passwords_path(settings), passwords)
    hasher = Passwords(settings.bcrypt_rounds)
    hashes = {email: await hasher.hash(password) for email, password in passwords.items()}
    hasher.close()
    clock, data_keys = SystemClock(), DataKeys(DATA_KEY.load(settings, settings.data_key))
    await data_keys.load(database, clock)
    async with database.session() as session:
        admin = commanding(session, AuditLog(data_keys), ACTOR, clock.now_ms())
        operators = await create_tenant(admin, OPERATOR_TENANT)
        tenant = await create_tenant(admin, MEMBER_TENANT)
        await create_user(
            admin, NewUser(OPERATOR, role=Role.OPERATOR, tenant_id=operators.id, password_hash=hashes[OPERATOR])
        )
        member = await create_user(admin, NewUser(MEMBER, tenant_id=tenant.id, password_hash=hashes[MEMBER]))
    assert tenant.id is not None
    ledger = make_ledger(settings)
    ledger.start()
    limits = (
        SetLimit(QuotaKey(Subject(tenant.id, member.id), Unit.TOKENS, Period.DAY), MEMBER_LIMIT),
        SetLimit(QuotaKey(Subject(tenant.id), Unit.TOKENS, Period.MONTH), TENANT_LIMIT),
    )
    await ledger.administer(limits, actor=ACTOR, reason="initial quota")
    await ledger.stop()
    return passwords


def passwords_path(settings: Settings) -> Path:
    """Returns where the passwords are written: beside an SQLite database, with PostgreSQL in the home directory."""
    folder = settings.sqlite_path.parent if settings.sqlite_path is not None else Path(os.environ.get("HOME", "."))
    return folder.absolute() / PASSWORDS_FILE


def _write_passwords(path: Path, passwords: dict[str, str]) -> None:
    """Replace the file, which a first start that failed may have left."""
    try:
        path.unlink(missing_ok=True)
        create_private_file(path, "".join(f"{email} {password}\n" for email, password in passwords.items()))
    except OSError as error:
        raise ConfigurationError(
            f"The first passwords cannot be written to {path}: {error.strerror}. Start once at a terminal."
        ) from None


def print_example_calls(passwords: dict[str, str], settings: Settings, url: str) -> None:
    """Print example calls to this URL, and the passwords, which are not stored in plain text; or the file with them."""
    operator = f"operator  {OPERATOR}"
    member = f"member    {MEMBER}"
    quota = f'({MEMBER_LIMIT:,} tokens a day, tenant "{MEMBER_TENANT}")'
    if sys.stdout.isatty():
        _print_text(f"""
First start. These passwords are not shown again:

  {operator}  {passwords[OPERATOR]}
  {member}    {passwords[MEMBER]}   {quota}
""")
        _print_calls(url, f"password={passwords[MEMBER]}")
        return
    path = passwords_path(settings)
    _print_text(f"""
First start. The passwords are in {path}. Only your user can read the file; delete it when you have noted them.

  {operator}
  {member}    {quota}
""")
    _print_calls(url, f"\"password=$(sed -n 's/^{MEMBER} //p' {shlex.quote(str(path))})\"")


def print_how_to_get_in() -> None:
    """Print how to find the users of this database, and how to set a new password."""
    command = command_name()
    _print_text(f"""
The database has users already. List them, or set a new password for one of them:

{command} user list
{command} user password EMAIL
""")


def print_first_steps() -> None:
    """Print how to make a user: the database has none."""
    command = command_name()
    _print_text(f"""
The database has no users yet. Start once with --first-run, or create an operator, who administers the server, and a
tenant and a user with a quota:

{command} tenant create {OPERATOR_TENANT}
{command} user create {OPERATOR} --tenant {OPERATOR_TENANT} --role operator
{command} tenant create {MEMBER_TENANT}
{command} user create {MEMBER} --tenant {MEMBER_TENANT}
{command} quota set {MEMBER} --limit {MEMBER_LIMIT} --window day
""")


def _print_calls(url: str, password: str) -> None:
    """Print three calls. `password` is the argument of curl with the member's password."""
    base = shlex.quote(url)  # some shells expand the brackets of an IPv6 address, and fish assigns only by `export`
    program = 'import json,sys; a=json.load(sys.stdin); print(a.get("access_token") or sys.exit(a["detail"]))'
    read_token = f"python3 -c '{program}'"
    query = f"{base}/ai/query -H \"Authorization: Bearer $TOKEN\" -H 'Content-Type: application/json'"
    _print_text(f"""Log in, send a prompt, and see the quota decrease by exactly the cost:

export TOKEN="$(curl -sS {base}/auth/login -d username={MEMBER} -d {password} | {read_token})"
curl -s -w '\\n' {query} -d '{{"prompt": "Good morning, Tollkeeper"}}'
curl -s -w '\\n' {base}/me/quota -H "Authorization: Bearer $TOKEN"
""")


def _print_text(text: str) -> None:
    for line in text.split("\n"):
        print_line(line)
