"""The share of a verification's work: each of what is counted is the same part of it."""

import json

import pytest

from tollkeeper.cli import progress
from tollkeeper.cli.progress import ProgressLines, share_of


def test_the_share_is_the_mean_of_what_is_counted() -> None:
    assert share_of({"entries": 50, "charges": 0}, {"entries": 100, "charges": 10}) == 0.25
    assert share_of({"entries": 100, "charges": 5}, {"entries": 100, "charges": 10}) == 0.75
    assert share_of({"entries": 3, "charges": 0}, {"entries": 3, "charges": 0}) == 1
    assert share_of({"entries": 3}, {}) is None, "how many there are is not known"


def test_an_estimate_that_is_too_small_grows_and_the_end_is_the_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "INTERVAL_S", 0)
    lines = ProgressLines({"lines": 10})
    for checked in (5, 20):
        lines.show({"lines": checked})
    lines.show({"lines": 21}, is_last=True)
    printed = [json.loads(line)["progress"] for line in capsys.readouterr().err.splitlines()]
    assert [(one["share"], one["about"]["lines"]) for one in printed] == [(0.5, 10), (1, 20), (1, 21)]
