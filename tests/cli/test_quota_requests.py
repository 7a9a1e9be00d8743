"""`tollkeeper quota requests`, `approve` and `decline`."""

import json

import pytest

from support.command_runner import CommandRunner

pytestmark = pytest.mark.prove_only_on_postgres

ADA = "ada@example.com"
ASK = (
    "INSERT INTO quota_requests (tenant_id, user_id, period, tokens, reason, status, created_ms)"
    " SELECT tenant_id, id, 'day', {tokens}, 'a report', 'pending', 1796000000000 FROM users WHERE email = '{email}'"
)


@pytest.fixture
def asked(acme: CommandRunner) -> CommandRunner:
    """Ada has a quota and asks for more; Bob asks, and has none."""
    acme.run("quota", "set", ADA, "--limit", "1000", "--window", "day")
    for email, tokens in ((ADA, 500), ("bob@example.com", 70)):
        acme.query(ASK.format(email=email, tokens=tokens) + " RETURNING id")
    return acme


def ids(runner: CommandRunner, status: str = "pending") -> dict[str, str]:
    listed = json.loads(runner.run("quota", "requests", "--status", status, "--json"))
    return {request["user"]: str(request["id"]) for request in listed}


def test_a_request_is_listed_granted_in_part_and_then_decided(asked: CommandRunner) -> None:
    assert "a report" in asked.run("quota", "requests")
    number = ids(asked)[ADA]
    for _ in range(2):
        output = asked.run("quota", "approve", number, "--tokens", "300", "--reason", "half")
        assert output.strip() == f"{ADA} is granted 300 of 500 tokens: the limit of the day window is now 1,300."
    assert asked.fail("quota", "approve", number) == "This request has been decided already."
    assert ids(asked, "granted") == {ADA: number}
    entries = asked.query("SELECT granted, actor, reason FROM entries WHERE kind = 'grant'")
    assert [(granted, reason) for granted, _, reason in entries] == [(300, "half")]


def test_what_cannot_be_granted_is_refused_and_a_declined_request_stays_so(asked: CommandRunner) -> None:
    found = ids(asked)
    bob = found["bob@example.com"]
    assert "set a limit first" in asked.fail("quota", "approve", bob)
    assert "at most as many" in asked.fail("quota", "approve", found[ADA], "--tokens", "501")
    assert ids(asked) == found
    assert "is declined" in asked.run("quota", "decline", bob, "--reason", "no quota")
    assert asked.fail("quota", "approve", bob, "--tokens", "1").startswith(("The user has no quota", "This request"))
    assert asked.run("quota", "requests", "--status", "granted").strip() == "There are no such requests."
