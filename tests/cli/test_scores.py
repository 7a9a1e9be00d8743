"""`tollkeeper scores`: the judge of a tenant, and what it has said."""

import json

from support.command_runner import CommandRunner


def test_a_judge_is_set_and_removed_and_its_scores_are_shown(runner: CommandRunner) -> None:
    runner.run("tenant", "create", "acme")
    of_acme = ("--tenant", "acme")
    assert "It rates calls with evaluate, and 0 of the other answers." in runner.run(
        "scores", "judge", *of_acme, "--model", "echo"
    )
    assert "evaluate_account" in runner.fail("scores", "judge", *of_acme, "--share", "0.5")
    assert "not a service account" in runner.fail("scores", "judge", *of_acme, "--account", "99")
    assert "at least one" in runner.fail("scores", "judge", *of_acme)
    assert "mean score" in runner.run("scores", "show", *of_acme, "--group-by", "day")
    assert (
        json.loads(runner.run("scores", "show", *of_acme, "--first", "2026-01-01", "--last", "2026-01-31", "--json"))
        == []
    )
    assert "has no judge" in runner.run("scores", "judge", *of_acme, "--none")
