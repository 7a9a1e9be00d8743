"""A CSV file of users to import. Every line is read, and all problems of each line are reported with its number."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tollkeeper.administration.users import person_email
from tollkeeper.cli.arguments import parse_name, parse_role, quote
from tollkeeper.cli.csv_file import Cells, read_cells
from tollkeeper.errors import InvalidRequest
from tollkeeper.identity.passwords import check_length
from tollkeeper.principal import Role

COLUMNS = ("email", "tenant", "role", "password")
FORMAT = """The CSV file starts with a header that names its columns, in any order:
  email      the user's e-mail address
  tenant     the name of a tenant that exists; optional with --tenant
  role       member, tenant_admin or operator; member by default
  password   optional with --passwords, which generates the missing ones
For example:
  email,tenant,role,password
  ada@example.com,acme,tenant_admin,
  bob@example.com,acme,,a long passphrase
"""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NewUser:
    """One user to create. Without a password, one is generated."""

    line: int
    email: str
    tenant: str
    role: Role
    password: str | None


@dataclass(slots=True)
class Problems:
    """What is wrong, by the number of the line."""

    by_line: dict[int, list[str]]

    def add(self, line: int, problem: str) -> None:
        self.by_line.setdefault(line, []).append(problem)

    def sentences(self) -> list[str]:
        """Returns one text for each line that has problems, in the order of the lines."""
        return [f"line {line}: {' '.join(self.by_line[line])}" for line in sorted(self.by_line)]


def read_users(path: Path, tenant: str | None, problems: Problems) -> list[NewUser]:
    """Returns the users of the lines without a problem. `tenant` is that of lines that name none.

    Raises InvalidRequest for a file that cannot be read or has no valid header.
    """
    users: list[NewUser] = []
    for line, cells in read_cells(path, COLUMNS, verbatim=("password",)):
        if isinstance(cells, str):
            problems.add(line, cells)
        elif (user := _parse_line(line, cells, tenant, problems)) is not None:
            users.append(user)
    _find_repeated(users, problems)
    return users


def _parse_line(line: int, cells: Cells, default_tenant: str | None, problems: Problems) -> NewUser | None:
    def parse(read: Callable[[str], T], text: str) -> T | None:
        try:
            return read(text)
        except InvalidRequest as error:
            problems.add(line, error.detail)
            return None

    email = parse(_parse_email, cells.get("email", ""))
    tenant = parse(_parse_tenant, cells.get("tenant", default_tenant or ""))
    role = parse(parse_role, cells.get("role", Role.MEMBER.value))
    password = cells.get("password")
    if password is not None:
        parse(check_length, password)
    if email is None or tenant is None or role is None or line in problems.by_line:
        return None
    return NewUser(line, email, tenant, role, password)


def _parse_email(text: str) -> str:
    if not text:
        raise InvalidRequest("The email is missing.")
    try:
        return person_email(text)
    except InvalidRequest:
        raise InvalidRequest(f"{quote(text)} is not an e-mail address.") from None


def _parse_tenant(text: str) -> str:
    if not text:
        raise InvalidRequest("The tenant is missing. Add it to the line, or use --tenant for all lines.")
    return parse_name(text)


def _find_repeated(users: list[NewUser], problems: Problems) -> None:
    first_lines: dict[str, int] = {}
    for user in users:
        first = first_lines.setdefault(user.email, user.line)
        if first != user.line:
            problems.add(user.line, f"Line {first} has the same e-mail address.")
