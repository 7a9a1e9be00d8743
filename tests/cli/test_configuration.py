"""`tollkeeper model`, `provider` and `provider-key`: the same acts as over the admin API."""

import json

import pytest

from support.command_runner import CommandRunner

KEY = "sk-of-the-tenant-0123456789"


def test_a_model_and_a_provider_are_switched_off_and_on(runner: CommandRunner) -> None:
    assert "echo is switched off" in runner.run("model", "off", "echo", "--reason", "a test")
    (model,) = json.loads(runner.run("model", "list", "--json"))
    assert (model["model"], model["on"], model["switched_off"]["reason"]) == ("echo", False, "a test")
    assert "a test" in runner.run("model", "list")
    assert json.loads(runner.run("model", "on", "echo", "--json"))["on"] is True
    assert json.loads(runner.run("provider", "off", "echo", "--reason", "a test", "--json")) == {
        "provider": "echo",
        "on": False,
    }
    (provider,) = json.loads(runner.run("provider", "list", "--json"))
    assert (provider["on"], provider["tenant_keys"]) == (False, False)
    assert json.loads(runner.run("model", "list", "--json"))[0]["on"] is False
    runner.run("provider", "on", "echo")
    assert "on" in runner.run("provider", "list")
    assert json.loads(runner.run("model", "list", "--json"))[0]["on"] is True


def test_what_does_not_exist_is_refused(runner: CommandRunner) -> None:
    assert "No model with that name" in runner.fail("model", "off", "none/such", "--reason", "a test")
    assert "no configured provider with this name" in runner.fail("provider", "off", "none", "--reason", "a test")


def test_a_provider_that_takes_no_key_is_refused(runner: CommandRunner) -> None:
    runner.run("tenant", "create", "acme")
    assert "no configured provider with this name" in runner.fail(
        "provider-key", "set", "openai", "--tenant", "acme", "--key-stdin", stdin=f"{KEY}\n".encode()
    )
    assert "takes no API key" in runner.fail(
        "provider-key", "set", "echo", "--tenant", "acme", "--key-stdin", stdin=f"{KEY}\n".encode()
    )


def test_a_key_is_never_printed(runner: CommandRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-operator")
    runner.run("tenant", "create", "acme")
    arguments = ("provider-key", "set", "openai", "--tenant", "acme", "--key-stdin")
    for as_json in ((), ("--json",)):
        printed = runner.run(*arguments, *as_json, stdin=f"{KEY}\r\n".encode())
        assert KEY[-4:] in printed
        assert KEY not in printed
    assert "16 to 512" in runner.fail(*arguments, stdin=b"short\n")
    (listed,) = json.loads(runner.run("provider-key", "list", "--tenant", "acme", "--json"))
    assert (listed["provider"], listed["suffix"]) == ("openai", KEY[-4:])
    assert KEY not in runner.run("provider-key", "list", "--tenant", "acme")
    runner.run("provider-key", "delete", "openai", "--tenant", "acme")
    assert json.loads(runner.run("provider-key", "list", "--tenant", "acme", "--json")) == []
    assert "nothing with this name" in runner.fail("provider-key", "delete", "openai", "--tenant", "acme")
    assert "no terminal" in runner.fail("provider-key", "set", "openai", "--tenant", "acme")
