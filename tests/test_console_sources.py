"""The sources of the console: they agree with the OpenAPI document of this code, their logic works, and their texts are
in one place.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from support.browsers import CONSOLE, require_node
from support.deadlines import TEST_DEADLINE_S
from tollkeeper.cli.commands import app
from tollkeeper.cli.lazy_group import LazyCommand

ROOT = Path(__file__).parents[1]
TEXT_IN_MARKUP = re.compile(r">[^<>{}=;()&|]*[A-Za-z]{2,}[^<>{}=;()&|]*</")
TEXT_IN_ATTRIBUTE = re.compile(r"""\b(?:label|title|aria-label|description)="[^"]*[A-Za-z]""")
UNSAFE = ("dangerouslySetInnerHTML", "innerHTML", "eval(", "localStorage", "sessionStorage", "document.cookie")


def run_node(*command: str, environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["node", *command],
        cwd=CONSOLE,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TEST_DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.exhaustive
@pytest.mark.long
def test_the_console_uses_the_api_as_its_document_describes_it(tmp_path: Path) -> None:
    """The types are generated from the document: a changed API is an error of types in the console."""
    environment = require_node()
    document = tmp_path / "openapi.json"
    subprocess.run(
        [sys.executable, "scripts/export_openapi.py", str(document)], cwd=ROOT, check=True, timeout=TEST_DEADLINE_S
    )
    generate = ("node_modules/openapi-typescript/bin/cli.js", str(document), "-o", "src/api/schema.d.ts")
    run_node(*generate, "--default-non-nullable=false", environment=environment)
    run_node("node_modules/typescript/bin/tsc", "--noEmit", environment=environment)


@pytest.mark.exhaustive
@pytest.mark.long
def test_the_logic_of_the_console_works() -> None:
    run_node("node_modules/vitest/vitest.mjs", "run", environment=require_node())


def test_all_texts_of_the_console_are_in_one_place_and_none_is_markup() -> None:
    sources = [
        path
        for path in (CONSOLE / "src").rglob("*.ts*")
        if path.name not in ("strings.ts", "strings.admin.ts", "schema.d.ts")
    ]
    assert len(sources) > 20
    for path in sources:
        text = path.read_text()
        assert not TEXT_IN_MARKUP.search(text), path
        assert not TEXT_IN_ATTRIBUTE.search(text), path
        assert [word for word in UNSAFE if word in text] == [], path


def test_the_commands_that_the_console_shows_exist() -> None:
    texts = "".join((CONSOLE / "src" / name).read_text() for name in ("strings.ts", "strings.admin.ts"))
    lines = re.findall(r'"(tollkeeper [^"]+)"', texts)
    assert len(lines) > 5
    for line in lines:
        command: Any = typer.main.get_command(app)
        context = click.Context(command)
        for word in line.split()[1:]:
            if hasattr(command, "get_command"):
                found = command.get_command(context, word)
                assert found is not None, line
                command = found.load() if isinstance(found, LazyCommand) else found
        options = {name for parameter in command.params for name in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", line)) <= options, line
