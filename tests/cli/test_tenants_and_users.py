"""`tollkeeper tenant` and `tollkeeper user`: create, list, disable and enable them, and set passwords."""

import asyncio
import io

import pytest

from support.command_runner import PASSWORD, CommandRunner
from tollkeeper.database.engine import Database
from tollkeeper.errors import InvalidCredentials
from tollkeeper.identity import accounts
from tollkeeper.identity.passwords import Passwords
from tollkeeper.principal import Principal

pytestmark = pytest.mark.prove_only_on_postgres


def log_in(url: str, email: str, password: str) -> Principal:
    async def login() -> Principal:
        database, passwords = Database(url), Passwords(4)
        try:
            return await accounts.login(database, passwords, email, password, now_ms=0)
        finally:
            passwords.close()
            await database.close()

    return asyncio.run(login())


def test_a_new_user_can_log_in(runner: CommandRunner) -> None:
    assert runner.run("tenant", "create", " acme ") == "The tenant acme is created.\n"
    output = runner.run(
        *("user", "create", "Ada@Example.com", "--tenant", "acme", "--role", "tenant_admin", "--password-stdin"),
        stdin="sturdy pässword\r\n".encode(),
    )
    assert output == "The user ada@example.com is created, as tenant_admin of the tenant acme.\n"
    assert log_in(runner.url, "ada@example.com", "sturdy pässword").role == "tenant_admin"


def test_lists_print_names_in_full_and_without_markup(runner: CommandRunner) -> None:
    email = f"{'long' * 50}@example.com"
    runner.run("tenant", "create", "[red]acme[/red] :smile:")
    runner.run("user", "create", email, "--tenant", "[red]acme[/red] :smile:", "--password-stdin", stdin=PASSWORD)
    assert "[red]acme[/red] :smile:  active" in runner.run("tenant", "list")
    assert f"{email}  [red]acme[/red] :smile:  member  active" in runner.run("user", "list")


def test_the_users_of_one_tenant_or_of_all_are_listed(acme: CommandRunner) -> None:
    assert acme.run("user", "list").count("@example.com") == 2
    assert "ada@example.com" in acme.run("user", "list", "--tenant", "acme")
    assert "@example.com" not in acme.run("user", "list", "--tenant", "void")
    assert acme.fail("user", "list", "--tenant", "nobody") == "There is no tenant named nobody."


def test_new_users_get_the_default_quota_of_their_tenant(acme: CommandRunner) -> None:
    acme.run("tenant", "create", "other", "--default-limit", "700")
    acme.run("user", "create", "one@example.com", "--tenant", "other", "--password-stdin", stdin=PASSWORD)
    assert "5,000 tokens, window: day" in acme.run("tenant", "default", "other", "--limit", "5000", "--window", "day")
    acme.run("user", "create", "two@example.com", "--tenant", "other", "--password-stdin", stdin=PASSWORD)
    assert "5,000 tokens, day" in acme.run("tenant", "list")
    assert "get no quota" in acme.run("tenant", "default", "other", "--none")
    acme.run("user", "create", "three@example.com", "--tenant", "other", "--password-stdin", stdin=PASSWORD)
    quotas = "SELECT email, granted, period FROM quotas JOIN users ON users.id = user_id ORDER BY email"
    assert [tuple(row) for row in acme.query(quotas)] == [
        ("one@example.com", 700, "month"),
        ("two@example.com", 5000, "day"),
    ]


def test_a_disabled_user_cannot_log_in_until_enabled(acme: CommandRunner) -> None:
    before = log_in(acme.url, "ada@example.com", PASSWORD.decode().strip())
    assert acme.run("user", "disable", "Ada@example.com") == "The user ada@example.com is disabled.\n"
    assert "ada@example.com  acme    member  disabled" in acme.run("user", "list")
    with pytest.raises(InvalidCredentials):
        log_in(acme.url, "ada@example.com", PASSWORD.decode().strip())
    acme.run("user", "enable", "ada@example.com")
    after = log_in(acme.url, "ada@example.com", PASSWORD.decode().strip())
    assert after.token_version > before.token_version


def test_users_of_a_disabled_tenant_cannot_log_in_until_it_is_enabled(acme: CommandRunner) -> None:
    assert acme.run("tenant", "disable", "acme") == "The tenant acme is disabled.\n"
    assert "acme    disabled" in acme.run("tenant", "list")
    assert acme.run("user", "list").count("tenant disabled") == 2
    with pytest.raises(InvalidCredentials):
        log_in(acme.url, "ada@example.com", PASSWORD.decode().strip())
    acme.run("tenant", "enable", "acme")
    log_in(acme.url, "ada@example.com", PASSWORD.decode().strip())


def test_a_new_password_replaces_the_old_and_invalidates_the_tokens(acme: CommandRunner) -> None:
    before = log_in(acme.url, "ada@example.com", PASSWORD.decode().strip())
    acme.run("user", "password", "ada@example.com", "--password-stdin", stdin=b"another long password")
    with pytest.raises(InvalidCredentials):
        log_in(acme.url, "ada@example.com", PASSWORD.decode().strip())
    assert log_in(acme.url, "ada@example.com", "another long password").token_version == before.token_version + 1


INVALID_PASSWORDS = [
    (b"", "A password needs at least 12 characters."),
    (b"short\n", "A password needs at least 12 characters."),
    (b"x" * 1025, "A password can have at most 1024 bytes."),
    (b"x" * 100_000, "A password can have at most 1024 bytes."),
    (b"\xff" * 20, "The password is not valid UTF-8."),
]

MISTAKES = [
    ("tenant create acme", "There is a tenant named acme already."),
    (
        "tenant create a\x1b[31mb",
        "A tenant's name has only printable characters, and U+001B (CONTROL CHARACTER) is none.",
    ),
    ("tenant create a\u202eb", "A tenant's name has only printable characters, and U+202E (RIGHT-TO-LEFT OVERRIDE)"),
    ("tenant disable nobody", "There is no tenant named nobody."),
    ("tenant create", "Missing argument 'NAME'."),
    ("tenant create new --default-window day", "A window needs a limit, too."),
    ("tenant create new --default-limit -1", "The limit"),
    ("tenant default acme", "Give either --limit, with a --window if it is not month, or --none."),
    ("tenant default acme --none --limit 5", "Give either --limit"),
    ("tenant default nobody --limit 5", "There is no tenant named nobody."),
    ("user disable nobody@example.com", "There is no user with the e-mail address nobody@example.com."),
    ("user disable nobody", "That is not an e-mail address."),
    ("user disable \x1b[31mred@example.com", "That is not an e-mail address."),
    ("tenant disable \x1b[31mred", "The name '\\x1b[31mred' is empty or contains control characters."),
    ("user password nobody@example.com --password-stdin", "There is no user with the e-mail address nobody@e"),
    ("user create x@example.com", "Missing option '--tenant'."),
    ("user create x@example.com --tenant nobody --password-stdin", "There is no tenant named nobody."),
    ("user create x --tenant acme --password-stdin", "That is not an e-mail address."),
    ("user create ada@example.com --tenant acme --password-stdin", "There is a user with the e-mail address ada"),
    (
        "user create x@example.com --tenant acme",
        "There is no terminal. Give the password on standard input, with --password-stdin.",
    ),
    (
        "user create x@example.com --tenant acme --role boss --password-stdin",
        "Unknown role 'boss'. Choose member, tenant_admin or operator.",
    ),
    ("user create \udcff@example.com --tenant acme --password-stdin", "An argument is not valid UTF-8."),
    ("user remove ada@example.com", "No such command 'remove'."),
    ("user list --all", "No such option: --all"),
]


def test_an_invalid_command_is_reported_in_one_sentence_and_writes_nothing(acme: CommandRunner) -> None:
    tables = (
        "SELECT email, disabled_at, token_version FROM users ORDER BY email",
        "SELECT name, disabled_at FROM tenants ORDER BY name",
    )
    before = [acme.query(table) for table in tables]
    for command, sentence in MISTAKES:
        assert acme.fail(*command.split(" "), stdin=PASSWORD).startswith(sentence), command
    assert [acme.query(table) for table in tables] == before


def test_an_invalid_password_is_refused(acme: CommandRunner) -> None:
    arguments = ("user", "create", "x@example.com", "--tenant", "acme", "--password-stdin")
    for password, sentence in INVALID_PASSWORDS:
        assert acme.fail(*arguments, stdin=password) == sentence
    assert len(acme.query("SELECT id FROM users")) == 2


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def test_at_a_terminal_the_password_is_prompted_for_twice_and_hidden(
    acme: CommandRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = []

    def prompt(text: str, **options: bool) -> str:
        prompts.append((text, options))
        return "typed by hand, unseen"

    monkeypatch.setattr("typer.prompt", prompt)
    monkeypatch.setattr("io.TextIOWrapper", Terminal)
    acme.run("user", "password", "ada@example.com")
    assert prompts == [("Password", {"hide_input": True, "confirmation_prompt": True, "err": True})]
    log_in(acme.url, "ada@example.com", "typed by hand, unseen")
