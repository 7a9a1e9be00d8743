"""`tollkeeper key`: create, list and revoke API keys, for programs that cannot log in."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated

import typer

from tollkeeper.cli.arguments import parse_choice, parse_name, parse_number
from tollkeeper.cli.context import open_context
from tollkeeper.cli.output import AsJson, iso_time, print_json, print_line, print_table
from tollkeeper.errors import InvalidRequest
from tollkeeper.identity import accounts, keys
from tollkeeper.identity.models import ApiKey
from tollkeeper.principal import Access

app = typer.Typer(
    name="key", help="Create, list and revoke a user's API keys.", no_args_is_help=True, add_completion=False
)

Email = Annotated[str, typer.Argument(metavar="EMAIL", show_default=False, help="The user's e-mail address.")]


@app.command()
def create(
    email: Email,
    name: Annotated[str, typer.Option(metavar="NAME", show_default=False, help="What the key is for.")],
    scopes: Annotated[str, typer.Option(metavar="ai|me|ai,me", help="ai: call models; me: read balances.")] = "ai,me",
    days: Annotated[str | None, typer.Option(metavar="N", help="Days until it expires. Default: never.")] = None,
) -> None:
    """Create an API key. It is printed to standard output once and cannot be shown again."""
    parsed_scopes, parsed_days = _parse_scopes(scopes), _parse_days(days) if days is not None else None

    async def create_key() -> str:
        async with open_context() as context, context.database.session() as session:
            now_ms = context.clock.now_ms()
            expires_ms = now_ms + parsed_days * keys.DAY_MS if parsed_days is not None else None
            user = await accounts.get_user_by_email(session, email)
            return (await keys.create(session, user, parse_name(name), parsed_scopes, expires_ms, now_ms)).secret

    print_line(asyncio.run(create_key()))
    print_line("Save this key: it is not shown again.", error=True)


@app.command(name="list")
def list_(email: Email, as_json: AsJson = False) -> None:
    """List the keys of a user, without revoked keys."""

    async def read() -> list[ApiKey]:
        async with open_context() as context, context.database.session() as session:
            user = await accounts.get_user_by_email(session, email)
            return await keys.list_keys(session, user)

    found = asyncio.run(read())
    if as_json:
        print_json([_record(key) for key in found])
    else:
        print_table(("key", "begins with", "name", "scopes", "created", "expires"), map(_row, found))


@app.command()
def revoke(
    email: Email,
    key_id: Annotated[
        str | None, typer.Argument(metavar="KEY", show_default=False, help="The key's id, as listed.")
    ] = None,
    revoke_all: Annotated[bool, typer.Option("--all", help="Every key of the user.")] = False,
) -> None:
    """Revoke a key from the next request on. Calls in flight are settled."""
    if (key_id is None) != revoke_all:
        raise InvalidRequest("Specify either one key or --all.")

    async def revoke_keys() -> int:
        async with open_context() as context, context.database.session() as session:
            now_ms = context.clock.now_ms()
            user = await accounts.get_user_by_email(session, email)
            if key_id is None:
                return await keys.revoke_all(session, user, now_ms)
            await keys.revoke(session, user, key_id, now_ms)
            return 1

    count = asyncio.run(revoke_keys())
    print_line(f"The key {key_id} is revoked." if key_id is not None else f"{count} API keys are revoked.")


def _parse_days(text: str) -> int:
    """Returns a whole number from 1 to MAX_LIFETIME_DAYS."""
    return parse_number(text, "--days", 1, keys.MAX_LIFETIME_DAYS)


def _parse_scopes(text: str) -> set[Access]:
    """Returns the scopes of an API key, from a list separated by commas."""
    names = [scope.value for scope in keys.GRANTABLE_SCOPES]
    return {Access(parse_choice(name.strip(), "scope", names)) for name in text.split(",")}


def _row(key: ApiKey) -> tuple[str, ...]:
    return (
        key.id,
        key.prefix,
        key.name,
        key.scopes.replace(" ", ","),
        _format_day(key.created_ms),
        _format_day(key.expires_ms),
    )


def _record(key: ApiKey) -> dict[str, object]:
    """The same as a JSON object."""
    return {
        "key": key.id,
        "prefix": key.prefix,
        "name": key.name,
        "scopes": key.scopes.split(),
        "created": iso_time(key.created_ms),
        "expires": iso_time(key.expires_ms),
    }


def _format_day(time_ms: int | None) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d}" if time_ms is not None else "never"
