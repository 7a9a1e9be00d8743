"""`tollkeeper usage`, `tollkeeper statement` and `tollkeeper ledger reconcile`."""

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path

from support.command_runner import CommandRunner

PAGE = {
    "data": [
        {
            "start_time": 1_730_419_200,
            "end_time": 1_730_505_600,
            "results": [{"input_tokens": 7, "output_tokens": 5, "num_model_requests": 1, "model": "gpt-4o-mini"}],
        }
    ],
    "has_more": False,
}


def test_reports_and_statements_without_calls_are_empty(acme: CommandRunner) -> None:
    assert acme.run("usage") == "Nothing was spent.\n"
    shown = json.loads(acme.run("usage", "--user", "ada@example.com", "--by", "model", "--json"))
    assert (shown["group_by"], shown["complete"], shown["data"], shown["total"]["calls"]) == ("model", True, [], 0)
    [header] = csv.reader(io.StringIO(acme.run("usage", "--tenant", "acme", "--by", "tag", "--csv")))
    assert header[:4] == ["value", "label", "calls", "cached_calls"]
    assert "is no day" in acme.fail("usage", "--from", "yesterday")
    assert "Operators ask" in acme.fail("usage", "--tenant", "acme", "--by", "tenant")

    month = datetime.now(UTC).strftime("%Y-%m")
    statement = json.loads(acme.run("statement", "acme", month, "--format", "json"))
    assert (statement["tenant"], statement["month"], statement["spent"]) == ("acme", month, [])
    assert acme.run("statement", "acme", month).startswith("section,month,quota")
    assert "<h1>Statement of acme" in acme.run("statement", "acme", month, "--format", "html")
    assert "no such statement" in acme.fail("statement", "acme", "soon")


def test_an_export_that_the_ledger_does_not_have_is_listed(acme: CommandRunner, tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    path.write_text(json.dumps(PAGE))
    arguments = ["ledger", "reconcile", str(path), "--provider", "openai", "--format"]
    different = acme.invoke(*arguments, "openai")
    assert (different.code, different.err) == (1, "")
    shown = different.out
    assert "DIFFERENT  2024-11-01 00:00:00Z to 2024-11-02 00:00:00Z, gpt-4o-mini" in shown
    assert "input tokens: 7 reported, 0 charged (-7)" in shown
    found = json.loads(acme.invoke(*arguments, "openai", "--json", "--tenant", "acme").out)
    assert (found["compared"], found["differences"][0]["charges"]) == (1, [])
    assert "is no export of the format anthropic" in acme.fail(*arguments, "anthropic")
    assert "Give the column" in acme.fail(*arguments, "csv", "--column", "start=Date")
    assert "is none of" in acme.fail(*arguments, "csv", "--column", "colour=Date")
    assert "NAME=VALUE" in acme.fail(*arguments, "openai", "--model", "gpt")
