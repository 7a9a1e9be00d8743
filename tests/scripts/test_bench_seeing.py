"""The bench compares a server with one that shows nothing of its calls; and measures what others wait for."""

import subprocess
import sys
from pathlib import Path

import pytest

from support.deadlines import TEST_DEADLINE_S

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"


def rows_of(*options: str) -> list[list[str]]:
    ran = subprocess.run(
        [sys.executable, str(BENCH), "--quick", "--only", "sqlite", *options],
        capture_output=True,
        text=True,
        timeout=TEST_DEADLINE_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    lines = [line for line in ran.stdout.splitlines() if line.startswith("| sqlite")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


@pytest.mark.prove_only
def test_a_server_is_compared_with_one_that_shows_nothing() -> None:
    rows = rows_of("--seeing")
    assert [row[1] for row in rows] == ["nothing", "all"]
    assert rows[0][3] == "1"


@pytest.mark.prove_only
def test_each_kind_of_large_body_is_accepted_while_another_client_calls() -> None:
    rows = rows_of("--bodies")
    assert [row[2] for row in rows] == [
        "",
        "/v1/chat/completions",
        "/v1/messages",
        "/v1/responses",
        "/ai/query",
        "/v1/messages",
        "/v1/messages",
        "/v1/embeddings",
        "/v1/messages",
        "/v1/embeddings",
        "/v1/chat/completions",
    ]
    for row in rows[1:]:
        status = "400" if row[2] in ("/v1/responses", "/v1/embeddings") else "200"
        assert f"× {status}" in row[3], "the body was not accepted"
