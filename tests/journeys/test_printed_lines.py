"""The commands of the README, and those that a first start prints, in each shell that people use."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from journeys.support.processes import Program, ReservedPort, clean_environment
from support.deadlines import TEST_DEADLINE_S
from support.shells import EVERY_SHELL, paste_problem, run_script
from tollkeeper.cli.first_run import MEMBER, MEMBER_LIMIT, OPERATOR

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)

RECORDER = """#!/bin/sh
for word in "$@"; do printf '<%s>' "$word" >>"$RECORD"; done
echo >>"$RECORD"
"""
"""Stands for `tollkeeper`: it records its arguments, one command a line."""


class Installation:
    """A server after its first start, in a folder of its own, and what it printed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = ReservedPort()
        self.environment = clean_environment({"TOLLKEEPER_RATE_LIMIT_LOGIN": "off"})
        self.program = self._start("serve", "--first-run", "--port", str(self.port.number))
        self.program.wait_for_answer(f"http://127.0.0.1:{self.port.number}/health")
        passwords = (folder / "data" / "first-passwords").read_text().split()
        self.password = passwords[passwords.index(MEMBER) + 1]

    def _start(self, *arguments: str) -> Program:
        return Program(
            ("tollkeeper", *arguments), environment=self.environment, folder=self.folder, output=self.folder / "out"
        )

    def readme(self, word: str, kind: str = "sh") -> list[str]:
        """Returns the lines of the README's block that has this word, for this server and this Python."""
        blocks = [block for found, block in BLOCK.findall(README.read_text()) if found == kind and word in block]
        assert len(blocks) == 1, word
        text = (
            blocks[0].replace(":8000", f":{self.port.number}").replace("password=PASSWORD", f"password={self.password}")
        )
        text = text.replace(".venv/bin/python", sys.executable)
        return [line for line in text.splitlines() if not line.startswith("pip install")]

    def run(self, shell: str, lines: Sequence[str], notes: str = "") -> str:
        """Run the lines in a folder of the shell's own. Returns what they print."""
        folder = self.folder / shell
        folder.mkdir(exist_ok=True)
        database = {"TOLLKEEPER_DATABASE_URL": f"sqlite:///{self.folder / 'data' / 'tollkeeper.db'}"}
        return run_script(shell, "\n".join(lines), folder, self.environment | database, notes)


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    made = Installation(tmp_path_factory.mktemp("home"))
    yield made
    made.program.kill()
    made.port.free()


def json_lines(output: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("shell", EVERY_SHELL)
def test_the_commands_that_a_first_start_prints_work_in_every_shell(installation: Installation, shell: str) -> None:
    lines = [line for line in installation.program.output.splitlines() if line.startswith(("export ", "curl "))]
    assert len(lines) == 3
    assert [paste_problem(line) for line in lines] == [None] * 3
    answer, quota = json_lines(installation.run(shell, lines))
    assert (answer["answer"], quota["limit"]) == ("Good morning, Tollkeeper", MEMBER_LIMIT)


@pytest.mark.parametrize("shell", EVERY_SHELL)
def test_the_commands_of_the_readme_log_in_call_and_create_a_key(installation: Installation, shell: str) -> None:
    login, key = installation.readme("/auth/login"), installation.readme("/auth/keys")
    output = installation.run(shell, [*login, *key, 'echo "$KEY"'])
    answer, quota = json_lines(output)
    assert (answer["answer"], quota["limit"]) == ("Good morning, Tollkeeper", MEMBER_LIMIT)
    assert re.fullmatch(r"tk-\S+", output.splitlines()[-1])


@pytest.mark.parametrize("shell", EVERY_SHELL)
def test_every_shell_passes_the_same_words_to_the_commands_that_adjust_a_quota(
    installation: Installation, shell: str
) -> None:
    """In another shell than sh: sh runs them for real in the next test."""
    folder = installation.folder / shell
    folder.mkdir(exist_ok=True)
    recorder, record = folder / "tollkeeper", folder / "record"
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    lines = [line.replace(f"{sys.executable} -m tollkeeper", str(recorder)) for line in installation.readme("alias ")]
    installation.run(shell, [f"export RECORD={record}", *lines])
    recorded = record.read_text()
    assert recorded.count("\n") == len(lines) - 1
    assert "<key><create><ada@acme.example><--name><nightly report><--days><90>\n" in recorded
    assert "<--reason><launch week><--window><day>\n" in recorded


@pytest.mark.exhaustive
def test_the_commands_that_adjust_a_quota_work(installation: Installation) -> None:
    output = installation.run("sh", installation.readme("alias "), "Save this key: it is not shown again.\n")
    assert "The user ada@acme.example is created" in output
    assert "Clean: " in output
    assert "60,000" in output


@pytest.mark.exhaustive
def test_the_python_of_the_readme_works_with_the_key(installation: Installation) -> None:
    login, key = installation.readme("/auth/login"), installation.readme("/auth/keys")
    (installation.folder / "snippet.py").write_text("\n".join(installation.readme("OpenAI(", "python")))
    command = f"{sys.executable} {installation.folder / 'snippet.py'}"
    assert installation.run("sh", [login[0], *key, command]).split() == ["Hello", "Hello"]


@pytest.mark.exhaustive
def test_a_password_that_was_forgotten_is_replaced_as_the_second_start_says(
    installation: Installation, tmp_path: Path
) -> None:
    port = ReservedPort()
    second = Program(
        ("tollkeeper", "serve", "--first-run", "--port", str(port.number)),
        environment=installation.environment,
        folder=installation.folder,
        output=tmp_path / "second",
    )
    second.wait_for_answer(f"http://127.0.0.1:{port.number}/health")
    second.kill()
    port.free()
    lines = [line for line in second.output.splitlines() if "tollkeeper user " in line]
    assert [line.partition(" user ")[2] for line in lines] == ["list", "password EMAIL"]
    assert [paste_problem(line) for line in lines] == [None, None]
    change = f"echo 'another passphrase' | {lines[1].replace('EMAIL', MEMBER)} --password-stdin"
    output = run_script("sh", f"{lines[0]}\n{change}", installation.folder, installation.environment)
    assert f"The user {MEMBER} has a new password." in output
    restore = change.replace("another passphrase", installation.password)
    run_script("sh", restore, installation.folder, installation.environment)


@pytest.mark.exhaustive
def test_an_empty_database_says_how_to_make_a_user(tmp_path: Path) -> None:
    environment, port = clean_environment({}), ReservedPort()
    home = tmp_path / "home"
    home.mkdir()
    migration = Program(("tollkeeper", "migrate"), environment=environment, folder=home, output=tmp_path / "1")
    assert migration.wait_for_end() == 0
    serve = ("tollkeeper", "serve", "--port", str(port.number))
    server = Program(serve, environment=environment, folder=home, output=tmp_path / "2")
    server.wait_for_answer(f"http://127.0.0.1:{port.number}/health")
    lines = [line for line in server.output.splitlines() if re.search(r"tollkeeper (tenant|user|quota) ", line)]
    assert "The database has no users yet." in server.output
    assert f"user create {OPERATOR} --tenant" in server.output
    assert "--role operator" in server.output
    assert len(lines) == 5
    assert [paste_problem(line) for line in lines] == [None] * 5
    for user in (1, 3):
        lines[user] = f"echo 'an example passphrase' | {lines[user]} --password-stdin"
    run_script("sh", "\n".join(lines), home, environment | {"PATH": os.environ["PATH"]})
    login = (
        f"curl -s http://127.0.0.1:{port.number}/auth/login -d username={MEMBER} -d 'password=an example passphrase'"
    )
    assert "access_token" in run_script("sh", login, home, environment)
    server.kill()
    port.free()


@pytest.mark.exhaustive
def test_the_commands_for_production_migrate_and_serve_on_postgresql(
    installation: Installation, postgres_url: str, tmp_path: Path
) -> None:
    """`exec` in front of `serve` makes it the process of the shell, which the test can end."""
    *exports, serve = installation.readme("tollkeeper migrate &&")
    port = ReservedPort()
    lines = [line.replace("postgresql://tollkeeper:PASSWORD@db/tollkeeper", postgres_url) for line in exports]
    tollkeeper = f"{sys.executable} -m tollkeeper"
    serve = serve.replace("&& tollkeeper", f"&& exec {tollkeeper}").replace(
        "tollkeeper migrate", f"{tollkeeper} migrate"
    )
    script = tmp_path / "production.sh"
    script.write_text("\n".join([*lines, f"{serve} --port {port.number}"]))
    with (tmp_path / "output").open("wb") as output:
        server = subprocess.Popen(
            ["sh", str(script)], cwd=tmp_path, env=installation.environment, stdout=output, stderr=output
        )
    try:
        wait_for_answer(f"http://127.0.0.1:{port.number}/health", server)
    finally:
        server.terminate()
        assert server.wait(TEST_DEADLINE_S) == 0, (tmp_path / "output").read_text()
        port.free()


def wait_for_answer(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + TEST_DEADLINE_S
    while time.monotonic() < deadline and server.poll() is None:
        with suppress(OSError), urllib.request.urlopen(url, timeout=TEST_DEADLINE_S):
            return
        time.sleep(0.1)
    raise AssertionError("the server does not answer")
