"""`tollkeeper key`: an operator's way to give a program a key, and to take it away."""

import asyncio

import pytest

from cli.keyboard import Keyboard
from tollkeeper.clock import SystemClock
from tollkeeper.db import Database
from tollkeeper.errors import Forbidden, Unauthenticated
from tollkeeper.identity.keys import ApiKeys
from tollkeeper.principal import Access, Principal

ADA = "ada@example.com"


def opened_by(url: str, secret: str, access: Access = Access.AI) -> Principal:
    async def work() -> Principal:
        database = Database(url)
        try:
            return await ApiKeys(database, SystemClock()).verify(secret, access)
        finally:
            await database.close()

    return asyncio.run(work())


def made(keyboard: Keyboard, *options: str) -> str:
    """A new key of ada's: all that is on standard output, so that a script can take it from there."""
    said = keyboard.type("key", "create", ADA, "--name", "nightly [red]report", *options)
    assert (said.code, said.err) == (0, "Save this key: it is not shown again.\n")
    return said.out.removesuffix("\n")


def key_id_in(keyboard: Keyboard) -> str:
    [(key_id,)] = keyboard.rows("SELECT id FROM api_keys WHERE revoked_ms IS NULL")
    return str(key_id)


def test_a_key_that_was_made_opens_as_its_user(acme: Keyboard) -> None:
    caller = opened_by(acme.url, made(acme))
    assert acme.rows(f"SELECT email FROM users WHERE id = {caller.user_id}") == [(ADA,)]


def test_keys_are_listed_by_how_they_begin_and_never_whole(acme: Keyboard) -> None:
    assert acme.do("key", "list", ADA).splitlines()[1:] == []
    secret = made(acme, "--scopes", "me", "--days", "30")
    listed = acme.do("key", "list", "Ada@Example.com")
    assert f"{key_id_in(acme)}  {secret[:10]}" in listed
    assert "nightly [red]report  me" in listed
    assert secret not in listed
    assert acme.do("key", "list", "bob@example.com").splitlines()[1:] == []


def test_scopes_are_those_that_were_named(acme: Keyboard) -> None:
    secret = made(acme, "--scopes", "me")
    assert opened_by(acme.url, secret, Access.ME)
    with pytest.raises(Forbidden):
        opened_by(acme.url, secret)


def test_a_revoked_key_opens_nothing(acme: Keyboard) -> None:
    secret = made(acme)
    key_id = key_id_in(acme)
    assert acme.refused("key", "revoke", "bob@example.com", key_id) == "There is no such API key."
    assert acme.do("key", "revoke", ADA, key_id) == f"The key {key_id} is revoked.\n"
    with pytest.raises(Unauthenticated):
        opened_by(acme.url, secret)
    assert acme.refused("key", "revoke", ADA, key_id) == "There is no such API key."


def test_a_new_password_says_how_many_keys_are_still_good_and_all_can_be_revoked(acme: Keyboard) -> None:
    secrets = [made(acme), made(acme)]
    said = acme.do("user", "password", ADA, "--password-stdin", stdin=b"another good password\n")
    assert said.endswith(f"2 API keys are still valid. To revoke them: tollkeeper key revoke {ADA} --all\n")
    assert acme.do("key", "revoke", ADA, "--all") == "2 API keys are revoked.\n"
    for secret in secrets:
        with pytest.raises(Unauthenticated):
            opened_by(acme.url, secret)
    said = acme.do("user", "password", ADA, "--password-stdin", stdin=b"another good password\n")
    assert said == f"The user {ADA} has a new password.\n"


@pytest.mark.parametrize("words", [(), ("key_0", "--all")])
def test_revoking_wants_one_key_or_all(acme: Keyboard, words: tuple[str, ...]) -> None:
    assert acme.refused("key", "revoke", ADA, *words) == "Specify either one key or --all."


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--scopes", "all"), "Unknown scope 'all'. Choose ai or me."),
        (("--scopes", "ai,"), "Unknown scope ''. Choose ai or me."),
        (("--scopes", "keys"), "Unknown scope 'keys'. Choose ai or me."),
        (("--days", "0"), "--days must be a whole number from 1 to 3650, not '0'."),
        (("--days", "4e3"), "--days must be a whole number from 1 to 3650, not '4e3'."),
        (("--name", " "), "The name ' ' is empty or contains control characters."),
        (("--name", "x" * 101), "A key's name has 1 to 100 printable characters."),
    ],
)
def test_what_is_typed_wrong_is_told_in_a_sentence(acme: Keyboard, options: tuple[str, str], sentence: str) -> None:
    name = () if "--name" in options else ("--name", "robot")
    assert acme.refused("key", "create", ADA, *name, *options) == sentence
    assert acme.rows("SELECT * FROM api_keys") == []


def test_nobody_has_no_keys(acme: Keyboard) -> None:
    for words in (("create", "--name", "x"), ("list",)):
        sentence = acme.refused("key", words[0], "nobody@example.com", *words[1:])
        assert sentence == "There is no user with the e-mail address nobody@example.com."
