"""`tollkeeper user reset`, `invite` and `erase`: links for people, and the erasure of a person."""

import asyncio
from typing import Annotated

import typer

from tollkeeper.administration import links
from tollkeeper.administration.links import url_of
from tollkeeper.cli.arguments import parse_name, parse_reason, parse_role
from tollkeeper.cli.context import open_administration
from tollkeeper.cli.output import AsJson, format_time, iso_time, print_json, print_line
from tollkeeper.cli.user_output import Record, print_result, record_user
from tollkeeper.identity import accounts
from tollkeeper.identity.links import NewLink

Email = Annotated[str, typer.Argument(metavar="EMAIL", show_default=False, help="The user's e-mail address.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the group `user`."""
    app.command()(reset)
    app.command()(invite)
    app.command()(erase)


def reset(email: Email, as_json: AsJson = False) -> None:
    """Print a link with which a user sets a new password. It is valid for an hour, and once."""

    async def create() -> Record:
        async with open_administration() as administration:
            admin = administration.admin
            user = await accounts.get_user_by_email(admin.session, email)
            link = await links.create_reset(admin, user)
            return _record(link, administration.context.settings.public_base_url) | {"email": user.email}

    _print_link(asyncio.run(create()), as_json=as_json)


def invite(
    email: Annotated[str, typer.Argument(metavar="EMAIL", show_default=False, help="Whom to invite.")],
    tenant: Annotated[str, typer.Option(metavar="NAME", show_default=False, help="The tenant of the user to be.")],
    role: Annotated[
        str, typer.Option(metavar="member|tenant_admin|operator", help="What the user will be able to do.")
    ] = "member",
    as_json: AsJson = False,
) -> None:
    """Print a link with which someone becomes a user. It is valid for seven days, and once."""
    parsed_role = parse_role(role)

    async def create() -> Record:
        async with open_administration() as administration:
            admin = administration.admin
            found = await accounts.get_tenant_by_name(admin.session, parse_name(tenant))
            link = await links.invite(admin, email, parsed_role, found.id)
            record = _record(link, administration.context.settings.public_base_url)
            return record | {"id": link.row.id, "email": link.row.email, "tenant": found.name, "role": link.row.role}

    _print_link(asyncio.run(create()), as_json=as_json)


def erase(
    email: Email,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", show_default=False, help="Recorded in the audit log. Do not name a person.")
    ],
    as_json: AsJson = False,
) -> None:
    """Erase who a user is, for good. What the user has spent stays, under the user's number."""
    from tollkeeper.administration.erasure import erase_user  # loads the tables of all that is erased

    parsed_reason = parse_reason(reason)

    async def erase_person() -> Record:
        async with open_administration() as administration:
            admin = administration.admin
            user = await accounts.get_user_by_email(admin.session, email)
            return await record_user(admin.session, await erase_user(admin, user, parsed_reason))

    record = asyncio.run(erase_person())
    print_result(record, f"The user is erased. What is left is {record['email']}, disabled for good.", as_json=as_json)


def _record(link: NewLink, base_url: str) -> Record:
    return {"url": url_of(link, base_url), "expires": iso_time(link.row.expires_ms), "expires_ms": link.row.expires_ms}


def _print_link(record: Record, *, as_json: bool) -> None:
    """Print the link on a line of its own on standard output; until when it is valid, on standard error."""
    expires_ms = record.pop("expires_ms")
    if as_json:
        print_json(record)
        return
    assert isinstance(expires_ms, int)
    print_line(str(record["url"]))
    until = f"The link is valid until {format_time(expires_ms)}, and can be used once."
    print_line(f"{until} It gives access without a password: send it only to the user.", error=True)
