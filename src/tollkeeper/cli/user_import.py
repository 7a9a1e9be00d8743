"""`tollkeeper user import`: create the users of a CSV file, all or none."""

import asyncio
import csv
import io
import secrets
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.administration.users import import_users
from tollkeeper.cli.context import CommandContext, open_administration
from tollkeeper.cli.csv_file import print_problems
from tollkeeper.cli.new_users import give_quotas
from tollkeeper.cli.output import AsJson, make_console, print_json, print_line
from tollkeeper.cli.user_file import FORMAT, NewUser, Problems, read_users
from tollkeeper.cli.user_output import Record
from tollkeeper.errors import InvalidRequest
from tollkeeper.identity import accounts
from tollkeeper.identity.models import User
from tollkeeper.identity.passwords import HASHING_THREADS, Passwords
from tollkeeper.private_files import create_private_file

PROGRAM = "tollkeeper"
MAX_USERS = 5_000
"""Of one import, which is one transaction."""
GENERATED_BYTES = 12

HELP = f"""Create the users of a CSV file, all or none. They have the default quota of their tenant, if it has one.

\b
{FORMAT}
"""


def register(app: typer.Typer) -> None:
    app.command(name="import", help=HELP)(import_)


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False, help="The CSV file.")],
    tenant: Annotated[str | None, typer.Option(metavar="NAME", help="The tenant of lines that name none.")] = None,
    passwords: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Generate the missing passwords, and write them to this new CSV file."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    problems = Problems({})
    users = read_users(file, tenant, problems)
    if not users and not problems.by_line:
        raise InvalidRequest(f"The file {file.absolute()} contains no users.")
    if len(users) > MAX_USERS:
        raise InvalidRequest(f"The file has {len(users):,} users. The maximum of one import is {MAX_USERS:,}.")
    missing = sum(user.password is None for user in users)
    if missing and passwords is None:
        subject = f"{missing:,} lines have" if missing > 1 else "1 line has"
        problems.add(0, f"{subject} no password. Add --passwords FILE to generate the missing ones.")
    created = asyncio.run(_import(users, problems, passwords))
    if as_json:
        print_json(created)
        return
    print_line(f"{len(users):,} users are created." if len(users) > 1 else "1 user is created.")
    if missing and passwords is not None:
        print_line(f"The generated passwords are in {passwords.absolute()}. Only your user can read the file.")


async def _import(users: Sequence[NewUser], problems: Problems, passwords: Path | None) -> list[Record]:
    """Returns the users as JSON objects. Raises InvalidRequest, and prints the problems, if there are any."""
    async with open_administration() as administration:
        admin = administration.admin
        tenant_ids = await _find_tenants(admin.session, users, problems)
        for email in await accounts.taken_emails(admin.session, [user.email for user in users]):
            line = next(user.line for user in users if user.email == email)
            problems.add(line, f"There is a user with the e-mail address {email} already.")
        _raise_problems(problems)
        await admin.session.commit()  # no transaction is open while the passwords are hashed
        generated = {user.email: secrets.token_urlsafe(GENERATED_BYTES) for user in users if user.password is None}
        hashes = await _hash(administration.context, [user.password or generated[user.email] for user in users])
        rows = [
            User(tenant_id=tenant_ids[user.tenant], email=user.email, password_hash=password_hash, role=user.role.value)
            for user, password_hash in zip(users, hashes, strict=True)
        ]
        if passwords is not None and generated:
            _write_passwords(passwords, generated)
        try:
            await import_users(admin, rows)
            await admin.session.commit()
        except BaseException:
            if passwords is not None and generated:
                passwords.unlink(missing_ok=True)
            raise
        await give_quotas(administration, list(tenant_ids.values()), [row.id for row in rows if row.id is not None])
        created = zip(users, rows, strict=True)
        return [{"id": row.id, "email": row.email, "tenant": user.tenant, "role": row.role} for user, row in created]


async def _find_tenants(session: AsyncSession, users: Sequence[NewUser], problems: Problems) -> dict[str, int]:
    """Returns tenant's name → id. Adds a problem to each line whose tenant does not exist."""
    found = {tenant.name: tenant.id for tenant in await accounts.list_tenants(session) if tenant.id is not None}
    for user in users:
        if user.tenant not in found:
            problems.add(user.line, f"There is no tenant named {user.tenant}.")
    return found


def _raise_problems(problems: Problems) -> None:
    sentences = problems.sentences()
    if not sentences:
        return
    general = problems.by_line.get(0)
    if general is not None:
        sentences[0] = " ".join(general)
    if len(sentences) == 1:
        raise InvalidRequest(f"{sentences[0]} No user was created.")
    print_problems(PROGRAM, sentences)
    raise InvalidRequest("No user was created.")


async def _hash(context: CommandContext, passwords: Sequence[str]) -> list[str]:
    """Returns the hashes. At a terminal, a bar shows the progress: each takes a part of a second."""
    console = make_console(stderr=True)
    turns = asyncio.Semaphore(2 * HASHING_THREADS)
    with (
        closing(Passwords(context.settings.bcrypt_rounds)) as hasher,
        Progress(console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task("Hashing passwords", total=len(passwords))

        async def hash_one(password: str) -> str:
            async with turns:
                hashed = await hasher.hash(password)
            progress.advance(task)
            return hashed

        return await asyncio.gather(*map(hash_one, passwords))


def _write_passwords(path: Path, passwords: dict[str, str]) -> None:
    """Write them to a new file, for the present user only. Raises InvalidRequest."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("email", "password"))
    lines.writerows(passwords.items())
    try:
        create_private_file(path, text.getvalue())
    except FileExistsError:
        raise InvalidRequest(f"The file {path.absolute()} exists already. No user was created.") from None
    except OSError as error:
        raise InvalidRequest(
            f"The file {path.absolute()} cannot be written: {error.strerror}. No user was created."
        ) from None
