"""`tollkeeper alert`: rules are added, listed and removed."""

import json

from support.command_runner import CommandRunner


def test_rules_are_added_listed_and_removed(runner: CommandRunner) -> None:
    runner.run("tenant", "create", "acme")
    added = runner.run("alert", "add", "--tenant", "acme", "--percents", "95, 80", "--kind", "user", "--window", "day")
    (rule,) = json.loads(runner.run("alert", "rules", "--tenant", "acme", "--json"))
    assert rule["id"] in added
    assert (rule["percents"], rule["kind"], rule["unit"], rule["period"]) == ([80, 95], "user", None, "day")
    assert "80, 95" in runner.run("alert", "rules", "--tenant", "acme")
    for wrong in (("--percents", "0"), ("--percents", "x"), ("--kind", "planet")):
        assert runner.invoke("alert", "add", "--tenant", "acme", *wrong).code == 2, wrong
    runner.run("alert", "remove", rule["id"])
    assert json.loads(runner.run("alert", "rules", "--tenant", "acme", "--json")) == []
    assert json.loads(runner.run("alert", "list", "--tenant", "acme", "--json")) == []
