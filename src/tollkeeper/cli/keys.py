"""`tollkeeper key`: API keys of users, for programs that cannot log in."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated

import typer

from tollkeeper.cli import tables, values
from tollkeeper.cli.context import opened
from tollkeeper.clock import SystemClock
from tollkeeper.errors import InvalidRequest
from tollkeeper.identity import accounts, keys
from tollkeeper.identity.models import ApiKey

app = typer.Typer(help="Make, list and revoke a user's API keys.")

Email = Annotated[str, typer.Argument(metavar="EMAIL", show_default=False, help="The user's e-mail address.")]


@app.command()
def create(
    email: Email,
    name: Annotated[str, typer.Option(metavar="NAME", show_default=False, help="What the key is for.")],
    scopes: Annotated[str, typer.Option(metavar="ai|me|ai,me", help="Calling models; reading balances.")] = "ai,me",
    days: Annotated[
        str | None, typer.Option(metavar="N", help="How long it is good; else until it is revoked.")
    ] = None,
) -> None:
    """Make an API key. It is written to standard output, this once."""
    wanted, good_for = values.scopes(scopes), values.days(days) if days is not None else None

    async def work() -> str:
        now_ms = SystemClock().now_ms()
        expires_ms = now_ms + good_for * keys.DAY_MS if good_for is not None else None
        async with opened() as install, install.database.session() as session:
            user = await accounts.user_with_email(session, email)
            return (await keys.create(session, user, values.name(name), wanted, expires_ms, now_ms)).secret

    typer.echo(asyncio.run(work()))
    typer.echo("Keep it: it is not shown again.", err=True)


@app.command(name="list")
def list_(email: Email) -> None:
    """List the keys of a user that are not revoked."""

    async def rows() -> list[tuple[str, ...]]:
        async with opened() as install, install.database.session() as session:
            user = await accounts.user_with_email(session, email)
            return [_row(key) for key in await keys.keys_of(session, user)]

    tables.show(("key", "begins with", "name", "scopes", "created", "expires"), asyncio.run(rows()))


@app.command()
def revoke(
    email: Email,
    key_id: Annotated[str | None, typer.Argument(metavar="KEY", show_default=False, help="As in the list.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every key of the user.")] = False,
) -> None:
    """Revoke a key, from the next request on. What is in flight is settled."""
    if (key_id is None) != everything:
        raise InvalidRequest("Name a key, or give --all; not both.")

    async def work() -> int:
        now_ms = SystemClock().now_ms()
        async with opened() as install, install.database.session() as session:
            user = await accounts.user_with_email(session, email)
            if key_id is None:
                return await keys.revoke_all(session, user, now_ms)
            await keys.revoke(session, user, key_id, now_ms)
            return 1

    count = asyncio.run(work())
    typer.echo(f"The key {key_id} is revoked." if key_id is not None else f"{count} API keys are revoked.")


def _row(key: ApiKey) -> tuple[str, ...]:
    return key.id, key.prefix, key.name, key.scopes.replace(" ", ","), _day(key.created_ms), _day(key.expires_ms)


def _day(moment_ms: int | None) -> str:
    return f"{datetime.fromtimestamp(moment_ms / 1000, UTC):%Y-%m-%d}" if moment_ms is not None else "never"
