"""`tollkeeper webhook`: the same acts as over the admin API."""

import json

import pytest

from support.command_runner import CommandRunner

pytestmark = pytest.mark.prove_only_on_postgres

URL = "http://127.0.0.1:1/hook"


@pytest.fixture
def hooks(runner: CommandRunner, monkeypatch: pytest.MonkeyPatch) -> CommandRunner:
    monkeypatch.setenv("TOLLKEEPER_PRIVATE_NETWORKS", "127.0.0.0/8")
    runner.run("tenant", "create", "acme")
    return runner


def test_a_webhook_is_registered_changed_tested_and_deleted(hooks: CommandRunner) -> None:
    create = ("webhook", "create", URL, "--tenant", "acme", "--events", "job.failed, job.completed", "--json")
    made = json.loads(hooks.run(*create))
    webhook_id, secret = made["id"], made["secret"]
    assert secret.startswith("whsec_")
    assert (made["url"], made["events"], made["state"]) == (URL, ["job.completed", "job.failed"], "enabled")
    for arguments in ((), ("--tenant", "acme")):
        printed = hooks.run("webhook", "list", *arguments)
        assert URL in printed
        assert secret not in printed
    changed = json.loads(
        hooks.run("webhook", "change", webhook_id, "--events", "batch.failed", "--description", "x", "--json")
    )
    assert (changed["events"], changed["description"], changed["url"]) == (["batch.failed"], "x", URL)
    assert "is disabled (administrator)" in hooks.run("webhook", "disable", webhook_id)
    assert "Enable it first" in hooks.fail("webhook", "test", webhook_id)
    assert "is enabled" in hooks.run("webhook", "enable", webhook_id)
    rotated = json.loads(hooks.run("webhook", "rotate-secret", webhook_id, "--overlap-hours", "0", "--json"))
    assert rotated["secret"] not in (secret, None)
    assert rotated["previous_secret_until"] is None
    sent = json.loads(hooks.run("webhook", "test", webhook_id, "--json"))
    assert "has not been delivered yet" in hooks.fail("webhook", "test", webhook_id)
    [listed] = json.loads(hooks.run("webhook", "deliveries", webhook_id, "--json"))
    assert listed == sent | {"last": None}
    assert (listed["event_type"], listed["status"], listed["attempts"]) == ("webhook.test", "pending", 0)
    assert hooks.run("webhook", "deliveries", webhook_id, "--status", "dead", "--json").strip() == "[]"
    assert "is pending" in hooks.fail("webhook", "replay", webhook_id, sent["id"])
    assert "is deleted" in hooks.run("webhook", "delete", webhook_id)
    assert json.loads(hooks.run("webhook", "list", "--json")) == []


def test_what_is_no_webhook_is_refused(hooks: CommandRunner) -> None:
    of_acme = ("--tenant", "acme", "--events")
    assert "private network" in hooks.fail("webhook", "create", "https://10.0.0.1/", *of_acme, "job.failed")
    assert "Unknown event" in hooks.fail("webhook", "create", URL, *of_acme, "job.unknown")
    assert "Unknown status" in hooks.fail("webhook", "deliveries", "wh_0", "--status", "lost")
    for act in ("delete", "enable", "test", "deliveries", "rotate-secret"):
        assert "nothing with this name or id" in hooks.fail("webhook", act, "wh_0"), act
