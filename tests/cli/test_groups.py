"""`tollkeeper group`, and the quotas of groups."""

import json

import pytest

from support.command_runner import CommandRunner

pytestmark = pytest.mark.prove_only_on_postgres

ADA = "ada@example.com"


def test_a_group_is_created_filled_limited_and_closed(acme: CommandRunner) -> None:
    assert acme.run("group", "create", "research", "--tenant", "acme").startswith("Created the group research")
    assert (
        acme.run("group", "add", "research", ADA, "--default").strip()
        == f"{ADA} is in the group research, the default one."
    )
    (group,) = json.loads(acme.run("group", "list", "--tenant", "acme", "--json"))
    assert (group["name"], [member["default"] for member in group["members"]]) == ("research", [True])
    owner = ("--tenant", "acme", "--group", "research")
    assert "group research: the limit for the day window is now 500" in acme.run(
        "quota", "set", *owner, "--limit", "500", "--window", "day"
    )
    assert "group research" in acme.run("quota", "show", *owner)
    assert acme.run("group", "remove", "research", ADA).strip() == f"{ADA} is not in the group research any more."
    assert acme.run("group", "close", "research", "--tenant", "acme").strip() == "The group research is closed."
    assert acme.fail("quota", "show", *owner) == "The tenant acme has no group research."
    assert acme.fail("group", "close", "research", "--tenant", "acme") == "The tenant has no group research."
    assert "letters" in acme.fail("group", "create", "two words", "--tenant", "acme")
    assert "needs its tenant, with --tenant" in acme.fail("quota", "show", ADA, "--group", "research")
