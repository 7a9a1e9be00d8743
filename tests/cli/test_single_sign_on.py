"""`tollkeeper sso`: providers, domains and identities."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from journeys.support.openid import FakeProvider, fake_provider
from support.command_runner import CommandRunner
from support.deadlines import TEST_DEADLINE_S

pytestmark = pytest.mark.prove_only_on_postgres


@contextmanager
def provider_in_thread() -> Iterator[FakeProvider]:
    """A provider on loopback, beside a command in this thread."""
    started, found, ended = threading.Event(), list[FakeProvider](), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with fake_provider() as provider:
            found.append(provider)
            started.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert started.wait(TEST_DEADLINE_S)
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(TEST_DEADLINE_S)
        loop.close()


def test_a_provider_is_set_shown_and_removed(acme: CommandRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLKEEPER_PRIVATE_NETWORKS", "127.0.0.0/8")
    monkeypatch.setenv("TOLLKEEPER_PUBLIC_URL", "https://ai.example.com")
    with provider_in_thread() as provider:
        options = ("--name", "acme", "--issuer", provider.issuer, "--client-id", "tollkeeper")
        assert "client_secret" in acme.fail("sso", "set", "acme", *options)
        redirect_uri = "https://ai.example.com/auth/oidc/acme/callback"
        output = acme.run("sso", "set", "acme", *options, "--client-secret-stdin", stdin=b"a secret\n")
        assert output == f"The provider is set. Enter this redirect URI there: {redirect_uri}\n"
        roles = ("--role-claim", "groups", "--admin-value", "a", "--admin-value", "b", "--disabled", "--json")
        changed = json.loads(acme.run("sso", "set", "acme", *options, *roles))
        assert (changed["admin_values"], changed["disabled"], changed["has_client_secret"]) == (["a", "b"], True, True)
        assert json.loads(acme.run("sso", "show", "acme", "--json")) == changed
        assert redirect_uri in acme.run("sso", "show", "acme")
        assert "a secret" not in acme.run("sso", "show", "acme")
        assert acme.run("sso", "link", "ada@example.com", "subject-1") == "The user is linked.\n"
        linked = json.loads(acme.run("sso", "identities", "ada@example.com", "--json"))
        assert linked == [{"issuer": provider.issuer, "subject": "subject-1"}]
        assert "subject-1" in acme.run("sso", "identities", "ada@example.com")
        assert acme.fail("sso", "link", "bob@example.com", "subject-1") == "This subject is linked to a user already."
        assert acme.run("sso", "unlink", "ada@example.com") == "The user is not linked any more.\n"
        assert json.loads(acme.run("sso", "identities", "ada@example.com", "--json")) == []
    assert acme.run("sso", "remove", "acme") == "The tenant acme has no provider any more.\n"
    assert acme.fail("sso", "show", "acme") == "This tenant has no identity provider."
    assert "Set one first" in acme.fail("sso", "link", "ada@example.com", "subject-1")


def test_a_provider_in_a_private_network_is_refused(acme: CommandRunner) -> None:
    with provider_in_thread() as provider:
        options = ("--name", "acme", "--issuer", provider.issuer, "--client-id", "x", "--public-client")
        assert "private network" in acme.fail("sso", "set", "acme", *options)
        assert provider.requests.total() == 0


def test_domains_are_added_listed_and_removed(acme: CommandRunner) -> None:
    added = acme.run("sso", "add-domain", "acme", "Example.com")
    assert added == "The domain example.com belongs to the tenant acme.\n"
    assert (
        acme.fail("sso", "add-domain", "void", "example.com") == "The domain example.com belongs to a tenant already."
    )
    assert [row["domain"] for row in json.loads(acme.run("sso", "domains", "acme", "--json"))] == ["example.com"]
    assert "example.com" in acme.run("sso", "domains", "acme")
    assert json.loads(acme.run("sso", "remove-domain", "acme", "example.com", "--json"))["removed"] is True
    assert json.loads(acme.run("sso", "domains", "acme", "--json")) == []
