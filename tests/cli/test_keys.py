"""`tollkeeper key`: create, list and revoke the API keys of a user."""

import asyncio
import json

import pytest

from support.command_runner import CommandRunner
from tollkeeper.clock import SystemClock
from tollkeeper.database.engine import Database
from tollkeeper.errors import Forbidden, Unauthenticated
from tollkeeper.identity.keys import ApiKeys
from tollkeeper.principal import Access, Principal

ADDRESS = "192.0.2.1"

pytestmark = pytest.mark.prove_only_on_postgres

ADA = "ada@example.com"


def verify_key(url: str, secret: str, access: Access = Access.AI, address: str = ADDRESS) -> Principal:
    async def verify() -> Principal:
        database = Database(url)
        try:
            return await ApiKeys(database, SystemClock()).verify(secret, access, address)
        finally:
            await database.close()

    return asyncio.run(verify())


def create_key(runner: CommandRunner, *options: str) -> str:
    """Create a key for ada. Standard output contains nothing but the key, for use in scripts."""
    result = runner.invoke("key", "create", ADA, "--name", "nightly [red]report", *options)
    assert (result.code, result.err) == (0, "Save this key: it is not shown again.\n")
    return result.out.removesuffix("\n")


def valid_key_id(runner: CommandRunner) -> str:
    [(key_id,)] = runner.query("SELECT id FROM api_keys WHERE revoked_ms IS NULL")
    return str(key_id)


def test_a_new_key_authenticates_its_user(acme: CommandRunner) -> None:
    caller = verify_key(acme.url, create_key(acme))
    assert acme.query(f"SELECT email FROM users WHERE id = {caller.user_id}") == [(ADA,)]


def test_keys_are_listed_by_their_first_characters_only(acme: CommandRunner) -> None:
    assert acme.run("key", "list", ADA).splitlines()[1:] == []
    secret = create_key(acme, "--scopes", "me", "--days", "30")
    listed = acme.run("key", "list", "Ada@Example.com")
    assert f"{valid_key_id(acme)}  {secret[:10]}" in listed
    assert "nightly [red]report  me" in listed
    assert secret not in listed
    assert acme.run("key", "list", "bob@example.com").splitlines()[1:] == []


def test_a_key_has_only_the_named_scopes(acme: CommandRunner) -> None:
    secret = create_key(acme, "--scopes", "me")
    assert verify_key(acme.url, secret, Access.ME)
    with pytest.raises(Forbidden):
        verify_key(acme.url, secret)


def test_a_revoked_key_is_refused(acme: CommandRunner) -> None:
    secret = create_key(acme)
    key_id = valid_key_id(acme)
    assert acme.fail("key", "revoke", "bob@example.com", key_id) == "There is no such API key."
    assert acme.run("key", "revoke", ADA, key_id) == f"The key {key_id} is revoked.\n"
    with pytest.raises(Unauthenticated):
        verify_key(acme.url, secret)
    assert acme.fail("key", "revoke", ADA, key_id) == "There is no such API key."


def test_a_new_password_reports_the_keys_still_valid_and_all_can_be_revoked(acme: CommandRunner) -> None:
    secrets = [create_key(acme), create_key(acme)]
    output = acme.run("user", "password", ADA, "--password-stdin", stdin=b"another good password\n")
    assert output.endswith(f"2 API keys are still valid. To revoke them: tollkeeper key revoke {ADA} --all\n")
    assert acme.run("key", "revoke", ADA, "--all") == "2 API keys are revoked.\n"
    for secret in secrets:
        with pytest.raises(Unauthenticated):
            verify_key(acme.url, secret)
    output = acme.run("user", "password", ADA, "--password-stdin", stdin=b"another good password\n")
    assert output == f"The user {ADA} has a new password.\n"


@pytest.mark.parametrize("arguments", [(), ("key_0", "--all")])
def test_revoke_requires_either_one_key_or_all(acme: CommandRunner, arguments: tuple[str, ...]) -> None:
    assert acme.fail("key", "revoke", ADA, *arguments) == "Specify either one key or --all."


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
def test_an_invalid_option_is_reported_in_one_sentence_and_creates_no_key(
    acme: CommandRunner, options: tuple[str, str], sentence: str
) -> None:
    name = () if "--name" in options else ("--name", "robot")
    assert acme.fail("key", "create", ADA, *name, *options) == sentence
    assert acme.query("SELECT * FROM api_keys") == []


def test_keys_of_an_unknown_user_are_refused(acme: CommandRunner) -> None:
    for arguments in (("create", "--name", "x"), ("list",)):
        sentence = acme.fail("key", arguments[0], "nobody@example.com", *arguments[1:])
        assert sentence == "There is no user with the e-mail address nobody@example.com."


def test_the_limits_of_a_key_are_set_changed_and_removed(acme: CommandRunner) -> None:
    made = acme.invoke("key", "create", ADA, "--name", "x", "--models", "a, b", "--networks", "192.0.2.1", "--json")
    record = json.loads(made.out)
    assert (record["models"], record["networks"], record["surfaces"]) == (["a", "b"], ["192.0.2.1/32"], None)
    assert verify_key(acme.url, record["secret"], address="192.0.2.1").limits.models == ("a", "b")
    with pytest.raises(Forbidden):
        verify_key(acme.url, record["secret"], address="192.0.2.2")
    key_id = record["key"]
    changed = json.loads(
        acme.run("key", "change", key_id, "--models", "any", "--surfaces", "ws", "--days", "3", "--json")
    )
    assert (changed["models"], changed["surfaces"], changed["networks"]) == (None, ["ws"], ["192.0.2.1/32"])
    assert changed["expires"] is not None
    assert acme.run("key", "change", key_id, "--days", "never", "--name", "y") == f"The key {key_id} is changed.\n"
    [listed] = json.loads(acme.run("key", "list", ADA, "--json"))
    assert (listed["expires"], listed["name"]) == (None, "y")
    actions = [action for (action,) in acme.query("SELECT action FROM audit_lines WHERE target LIKE 'key:%'")]
    assert actions == ["key.create", "key.change", "key.change"]
    assert json.loads(acme.run("key", "revoke", ADA, "--all", "--json")) == {"revoked": 1}
