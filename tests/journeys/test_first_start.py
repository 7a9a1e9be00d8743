"""The first start in an empty folder, without a provider key or a network, and the commands that it prints."""

import json
import os
import pty
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from journeys.support.processes import Program, ReservedPort, clean_environment
from support.deadlines import TEST_DEADLINE_S

LIMIT = 1_000_000


class FirstRun:
    """An empty folder, in which the commands of the README run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = ReservedPort()
        self.programs: list[Program] = []

    def run(self, *arguments: str) -> Program:
        output = self.folder.parent / f"{self.folder.name}-{len(self.programs)}.out"
        program = Program(
            ("tollkeeper", *arguments), environment=clean_environment({}), folder=self.folder, output=output
        )
        self.programs.append(program)
        return program

    def serve(self) -> Program:
        """Migrate and start the server as `make run` does."""
        migration = self.run("migrate")
        assert migration.wait_for_end() == 0, migration.output
        program = self.run("serve", "--first-run", "--port", str(self.port.number))
        program.wait_for_answer(f"http://127.0.0.1:{self.port.number}/health")
        return program

    def bash(self, lines: list[str]) -> list[dict[str, object]]:
        """Run lines in bash. Returns each JSON document that they print."""
        done = subprocess.run(
            ["bash", "-c", "\necho\n".join(lines)],
            capture_output=True,
            text=True,
            timeout=TEST_DEADLINE_S,
            check=True,
            env=clean_environment({}),
        )
        assert done.stderr == ""
        return [json.loads(line) for line in done.stdout.splitlines() if line]


@pytest.fixture
def first_run(tmp_path: Path) -> Iterator[FirstRun]:
    folder = tmp_path / "home"
    folder.mkdir()
    run = FirstRun(folder)
    yield run
    for program in run.programs:
        if program.running:
            program.kill()
    run.port.free()


def test_the_printed_commands_log_in_and_call_and_a_second_start_keeps_the_data(first_run: FirstRun) -> None:
    first = first_run.serve()
    assert "offline echo provider answers" in first.output
    passwords_file = first_run.folder / "data" / "first-passwords"
    passwords = [line.split() for line in passwords_file.read_text().splitlines()]
    assert re.findall(r"^ +(operator|member) +(\S+@\S+)", first.output, re.MULTILINE) == [
        (email.partition("@")[0], email) for email, _ in passwords
    ]
    assert passwords_file.stat().st_mode & 0o777 == 0o600
    assert f"The passwords are in {passwords_file}." in first.output
    lines = [line for line in first.output.splitlines() if line.startswith(("export TOKEN=", "curl "))]
    assert len(lines) == 3

    answer, quota = first_run.bash(lines)
    assert answer["answer"] == "Good morning, Tollkeeper"
    cost = answer["cost"]
    assert isinstance(cost, int)
    assert cost > 0
    assert (quota["limit"], quota["used"], quota["remaining"], quota["reserved"]) == (LIMIT, cost, LIMIT - cost, 0)
    again, quota = first_run.bash(lines)
    assert (again["cost"], quota["used"]) == (cost, 2 * cost)
    assert first.terminate() == 0
    assert "Traceback" not in first.output

    with closing(sqlite3.connect(first_run.folder / "data" / "tollkeeper.db")) as connection:
        acts = connection.execute("SELECT action FROM audit_lines WHERE actor = 'first run'").fetchall()
    assert sorted(acts) == [("tenant.create",)] * 2 + [("user.create",)] * 2

    second = first_run.serve()
    for email, password in passwords:
        assert email not in second.output
        assert password not in first.output + second.output
    assert "TOKEN=" not in second.output
    _, quota = first_run.bash(lines)
    assert quota["used"] == 3 * cost
    assert second.terminate() == 0
    assert sorted(path.name for path in first_run.folder.iterdir()) == ["data"]


def test_at_a_terminal_the_passwords_are_printed_and_not_written(first_run: FirstRun) -> None:
    assert first_run.run("migrate").wait_for_end() == 0
    terminal, its_end = pty.openpty()
    command = [sys.executable, "-m", "tollkeeper", "serve", "--first-run", "--port", str(first_run.port.number)]
    environment = clean_environment({})
    process = subprocess.Popen(command, cwd=first_run.folder, env=environment, stdout=its_end, stderr=its_end)
    os.close(its_end)
    output = b""
    while b"/me/quota" not in output:
        output += os.read(terminal, 65_536)
    process.kill()
    process.wait(TEST_DEADLINE_S)
    os.close(terminal)
    text = output.decode()
    passwords = re.findall(r"^ +(operator|member) +(\S+@\S+) +(\S+)", text, re.MULTILINE)
    assert [email for _, email, _ in passwords] == ["operator@example.com", "member@example.com"]
    assert f"-d password={passwords[1][2]} |" in text
    assert "These passwords are not shown again:" in text
    assert sorted(path.name for path in (first_run.folder / "data").iterdir() if "-p" in path.name) == []


def test_the_generated_secret_is_stored_in_a_file_that_only_its_owner_can_read(first_run: FirstRun) -> None:
    program = first_run.serve()
    assert program.terminate() == 0
    secret = first_run.folder / "data" / "signing-secret"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert len(secret.read_text().strip()) >= 32
    assert secret.read_text().strip() not in program.output


@pytest.mark.exhaustive
def test_ctrl_c_stops_the_server_cleanly(first_run: FirstRun) -> None:
    program = first_run.serve()
    assert program.interrupt() == 0
    assert "Traceback" not in program.output
