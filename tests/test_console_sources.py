"""The sources of the console: they agree with the OpenAPI document of this code, their logic works, and their texts are
in one place.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.browsers import CONSOLE, require_node
from support.deadlines import TEST_DEADLINE_S

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
def test_the_logic_of_the_console_works() -> None:
    run_node("node_modules/vitest/vitest.mjs", "run", environment=require_node())


def test_all_texts_of_the_console_are_in_one_place_and_none_is_markup() -> None:
    sources = [path for path in (CONSOLE / "src").rglob("*.ts*") if path.name not in ("strings.ts", "schema.d.ts")]
    assert len(sources) > 20
    for path in sources:
        text = path.read_text()
        assert not TEXT_IN_MARKUP.search(text), path
        assert not TEXT_IN_ATTRIBUTE.search(text), path
        assert [word for word in UNSAFE if word in text] == [], path
