"""`tollkeeper key`: create, list, change and revoke API keys, for programs that cannot log in."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from tollkeeper.administration import keys as acts
from tollkeeper.administration.administrator import Administrator
from tollkeeper.administration.keys import ListedKey
from tollkeeper.cli.arguments import parse_choice, parse_name, parse_number
from tollkeeper.cli.context import open_administration
from tollkeeper.cli.output import AsJson, iso_time, print_json, print_line, print_table
from tollkeeper.errors import InvalidRequest
from tollkeeper.identity import accounts, keys
from tollkeeper.key_limits import make_limits
from tollkeeper.principal import Access
from tollkeeper.tags import NO_TAGS, decode_tags, parse_tags, split_tag

app = typer.Typer(
    name="key", help="Create, list, change and revoke a user's API keys.", no_args_is_help=True, add_completion=False
)

Email = Annotated[str, typer.Argument(metavar="EMAIL", show_default=False, help="The user's e-mail address.")]
Models = Annotated[str | None, typer.Option(metavar="NAME,…", help="The only models that it may use.")]
Surfaces = Annotated[str | None, typer.Option(metavar="NAME,…", help="The only endpoints: query, chat/completions, …")]
TagsOfKey = Annotated[str | None, typer.Option("--tags", metavar="NAME=VALUE,…", help="Tags that all its calls have.")]
Networks = Annotated[str | None, typer.Option(metavar="CIDR,…", help="The only addresses of its clients.")]


@app.command()
def create(
    email: Email,
    name: Annotated[str, typer.Option(metavar="NAME", show_default=False, help="What the key is for.")],
    scopes: Annotated[str, typer.Option(metavar="ai|me|ai,me", help="ai: call models; me: read balances.")] = "ai,me",
    days: Annotated[str | None, typer.Option(metavar="N", help="Days until it expires. Default: never.")] = None,
    models: Models = None,
    surfaces: Surfaces = None,
    networks: Networks = None,
    tags: TagsOfKey = None,
    as_json: AsJson = False,
) -> None:
    """Create an API key. It is printed to standard output once and cannot be shown again."""
    parsed_scopes, parsed_days = _parse_scopes(scopes), _parse_days(days) if days is not None else None
    limits = make_limits(*map(_split, (models, surfaces, networks)))
    parsed_tags = parse_tags([tags.encode()]) if tags is not None else NO_TAGS

    async def create_key() -> keys.NewKey:
        async with open_administration() as administration:
            admin = administration.admin
            expires_ms = _after_days(admin, parsed_days) if parsed_days is not None else None
            user = await accounts.get_user_by_email(admin.session, email)
            return await acts.create_key(admin, user, parse_name(name), parsed_scopes, expires_ms, limits, parsed_tags)

    made = asyncio.run(create_key())
    if as_json:
        print_json(_record(ListedKey(made.row, None)) | {"secret": made.secret})
    else:
        print_line(made.secret)
    print_line("Save this key: it is not shown again.", error=True)


@app.command(name="list")
def list_(email: Email, as_json: AsJson = False) -> None:
    """List the keys of a user, without revoked keys."""

    async def read() -> list[ListedKey]:
        async with open_administration() as administration:
            admin = administration.admin
            user = await accounts.get_user_by_email(admin.session, email)
            return await acts.list_keys(admin, user_id=user.id, limit=keys.MAX_KEYS_PER_USER)

    found = asyncio.run(read())
    if as_json:
        print_json([_record(key) for key in found])
    else:
        print_table(("key", "begins with", "name", "scopes", "created", "expires", "last used"), map(_row, found))


@app.command()
def change(
    key_id: Annotated[str, typer.Argument(metavar="KEY", show_default=False, help="The key's id, as listed.")],
    name: Annotated[str | None, typer.Option(metavar="NAME", help="What the key is for.")] = None,
    days: Annotated[str | None, typer.Option(metavar="N|never", help="Days from now until it expires.")] = None,
    models: Models = None,
    surfaces: Surfaces = None,
    networks: Networks = None,
    tags: TagsOfKey = None,
    as_json: AsJson = False,
) -> None:
    """Change a key's name, expiry, limits or tags; "any" removes a limit. Servers follow within 30 seconds."""
    lists = {"models": models, "surfaces": surfaces, "networks": networks}
    changes: dict[str, Any] = {field: _split(text) for field, text in lists.items() if text is not None}
    if name is not None:
        changes["name"] = name
    if tags is not None:
        changes["tags"] = dict(map(split_tag, parse_tags([tags.encode()])))
    parsed_days = _parse_days(days) if days not in (None, "never") else None

    async def change_key() -> ListedKey:
        async with open_administration() as administration:
            admin = administration.admin
            if days is not None:
                changes["expires_ms"] = _after_days(admin, parsed_days) if parsed_days is not None else None
            return await acts.change_key(admin, await acts.get_key(admin, key_id, to_change=True), changes)

    changed = asyncio.run(change_key())
    if as_json:
        print_json(_record(changed))
    else:
        print_line(f"The key {key_id} is changed.")


@app.command()
def revoke(
    email: Email,
    key_id: Annotated[
        str | None, typer.Argument(metavar="KEY", show_default=False, help="The key's id, as listed.")
    ] = None,
    revoke_all: Annotated[bool, typer.Option("--all", help="Every key of the user.")] = False,
    as_json: AsJson = False,
) -> None:
    """Revoke a key from the next request on. Calls in flight are settled."""
    if (key_id is None) != revoke_all:
        raise InvalidRequest("Specify either one key or --all.")

    async def revoke_keys() -> int:
        async with open_administration() as administration:
            admin = administration.admin
            user = await accounts.get_user_by_email(admin.session, email)
            if key_id is None:
                return await acts.revoke_keys_of(admin, user)
            await acts.revoke_key(admin, key_id, user_id=user.id)
            return 1

    count = asyncio.run(revoke_keys())
    if as_json:
        print_json({"revoked": count})
    else:
        print_line(f"The key {key_id} is revoked." if key_id is not None else f"{count} API keys are revoked.")


def _after_days(admin: Administrator, days: int) -> int:
    return admin.now_ms + days * keys.DAY_MS


def _split(text: str | None) -> list[str] | None:
    """Returns the entries of a list separated by commas; None for a list that is absent, or "any"."""
    return None if text is None or text == "any" else [entry.strip() for entry in text.split(",")]


def _parse_days(text: str) -> int:
    """Returns a whole number from 1 to MAX_LIFETIME_DAYS."""
    return parse_number(text, "--days", 1, keys.MAX_LIFETIME_DAYS)


def _parse_scopes(text: str) -> set[Access]:
    """Returns the scopes of an API key, from a list separated by commas."""
    names = [scope.value for scope in keys.GRANTABLE_SCOPES]
    return {Access(parse_choice(name.strip(), "scope", names)) for name in text.split(",")}


def _row(listed: ListedKey) -> tuple[str, ...]:
    key = listed.row
    return (
        key.id,
        key.prefix,
        key.name,
        key.scopes.replace(" ", ","),
        _format_day(key.created_ms),
        _format_day(key.expires_ms),
        _format_day(listed.used_ms),
    )


def _record(listed: ListedKey) -> dict[str, object]:
    """The same as a JSON object, with the limits."""
    key = listed.row
    limits = keys.limits_of(key)
    return {
        "key": key.id,
        "prefix": key.prefix,
        "name": key.name,
        "scopes": key.scopes.split(),
        "models": limits.models,
        "surfaces": limits.surfaces,
        "networks": limits.networks,
        "tags": decode_tags(key.tags),
        "created": iso_time(key.created_ms),
        "expires": iso_time(key.expires_ms),
        "last_used": iso_time(listed.used_ms),
    }


def _format_day(time_ms: int | None) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d}" if time_ms is not None else "never"
