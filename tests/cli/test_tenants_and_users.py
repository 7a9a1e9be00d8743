"""`tollkeeper tenant` and `tollkeeper user`: who exists, who may act, and the way back in."""

import asyncio
import io

import pytest

from cli.keyboard import PASSWORD, Keyboard
from tollkeeper.db import Database
from tollkeeper.errors import InvalidCredentials
from tollkeeper.identity import accounts
from tollkeeper.identity.passwords import Passwords
from tollkeeper.principal import Principal


def log_in(url: str, email: str, password: str) -> Principal:
    async def work() -> Principal:
        database, passwords = Database(url), Passwords(4)
        try:
            return await accounts.login(database, passwords, email, password)
        finally:
            passwords.close()
            await database.close()

    return asyncio.run(work())


def test_a_user_who_was_created_can_log_in(keyboard: Keyboard) -> None:
    assert keyboard.do("tenant", "create", " acme ") == "The tenant acme is created.\n"
    said = keyboard.do(
        *("user", "create", "Ada@Example.com", "--tenant", "acme", "--role", "tenant_admin", "--password-stdin"),
        stdin="sturdy pässword\r\n".encode(),
    )
    assert said == "The user ada@example.com is created, as tenant_admin of the tenant acme.\n"
    assert log_in(keyboard.url, "ada@example.com", "sturdy pässword").role == "tenant_admin"


def test_lists_show_names_whole_and_as_they_are(keyboard: Keyboard) -> None:
    email = f"{'long' * 50}@example.com"
    keyboard.do("tenant", "create", "[red]acme[/red] :smile:")
    keyboard.do("user", "create", email, "--tenant", "[red]acme[/red] :smile:", "--password-stdin", stdin=PASSWORD)
    assert "[red]acme[/red] :smile:  active" in keyboard.do("tenant", "list")
    assert f"{email}  [red]acme[/red] :smile:  member  active" in keyboard.do("user", "list")


def test_users_are_listed_of_one_tenant_or_of_all(acme: Keyboard) -> None:
    assert acme.do("user", "list").count("@example.com") == 2
    assert "ada@example.com" in acme.do("user", "list", "--tenant", "acme")
    assert "@example.com" not in acme.do("user", "list", "--tenant", "void")
    assert acme.refused("user", "list", "--tenant", "nobody") == "There is no tenant named nobody."


def test_a_disabled_user_is_shut_out_until_enabled(acme: Keyboard) -> None:
    before = log_in(acme.url, "ada@example.com", PASSWORD.decode().strip())
    assert acme.do("user", "disable", "Ada@example.com") == "The user ada@example.com is disabled.\n"
    assert "ada@example.com  acme    member  disabled" in acme.do("user", "list")
    with pytest.raises(InvalidCredentials):
        log_in(acme.url, "ada@example.com", PASSWORD.decode().strip())
    acme.do("user", "enable", "ada@example.com")
    after = log_in(acme.url, "ada@example.com", PASSWORD.decode().strip())
    assert after.token_version > before.token_version


def test_a_disabled_tenant_shuts_its_users_out_until_enabled(acme: Keyboard) -> None:
    assert acme.do("tenant", "disable", "acme") == "The tenant acme is disabled.\n"
    assert "acme    disabled" in acme.do("tenant", "list")
    assert acme.do("user", "list").count("tenant disabled") == 2
    with pytest.raises(InvalidCredentials):
        log_in(acme.url, "ada@example.com", PASSWORD.decode().strip())
    acme.do("tenant", "enable", "acme")
    log_in(acme.url, "ada@example.com", PASSWORD.decode().strip())


def test_a_new_password_replaces_the_old_and_kills_the_tokens(acme: Keyboard) -> None:
    before = log_in(acme.url, "ada@example.com", PASSWORD.decode().strip())
    acme.do("user", "password", "ada@example.com", "--password-stdin", stdin=b"another long password")
    with pytest.raises(InvalidCredentials):
        log_in(acme.url, "ada@example.com", PASSWORD.decode().strip())
    assert log_in(acme.url, "ada@example.com", "another long password").token_version == before.token_version + 1


IMPOSSIBLE_PASSWORDS = [
    (b"", "A password needs at least 12 characters."),
    (b"short\n", "A password needs at least 12 characters."),
    (b"x" * 1025, "A password can have at most 1024 bytes."),
    (b"x" * 100_000, "A password can have at most 1024 bytes."),
    (b"\xff" * 20, "The password is not valid UTF-8."),
]

MISTAKES = [
    ("tenant create acme", "There is a tenant named acme already."),
    ("tenant disable nobody", "There is no tenant named nobody."),
    ("tenant create", "Missing argument 'NAME'."),
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


def test_a_mistake_is_one_sentence_and_writes_nothing(acme: Keyboard) -> None:
    tables = (
        "SELECT email, disabled_at, token_version FROM users ORDER BY email",
        "SELECT name, disabled_at FROM tenants ORDER BY name",
    )
    before = [acme.rows(table) for table in tables]
    for words, sentence in MISTAKES:
        assert acme.refused(*words.split(" "), stdin=PASSWORD).startswith(sentence), words
    assert [acme.rows(table) for table in tables] == before


def test_a_password_that_cannot_be_is_refused(acme: Keyboard) -> None:
    words = ("user", "create", "x@example.com", "--tenant", "acme", "--password-stdin")
    for password, sentence in IMPOSSIBLE_PASSWORDS:
        assert acme.refused(*words, stdin=password) == sentence
    assert len(acme.rows("SELECT id FROM users")) == 2


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def test_at_a_terminal_the_password_is_asked_for_twice_and_unseen(
    acme: Keyboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def prompt(text: str, **how: bool) -> str:
        asked.append((text, how))
        return "typed by hand, unseen"

    monkeypatch.setattr("typer.prompt", prompt)
    monkeypatch.setattr("io.TextIOWrapper", Terminal)
    acme.do("user", "password", "ada@example.com")
    assert asked == [("Password", {"hide_input": True, "confirmation_prompt": True, "err": True})]
    log_in(acme.url, "ada@example.com", "typed by hand, unseen")
