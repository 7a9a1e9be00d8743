"""The documents name only files and types that exist, and their commands can be pasted into any shell."""

import ast
import json
import re
from pathlib import Path

import pytest

from support.shells import EVERY_SHELL, paste_problem, syntax_error

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ROOTS = (ROOT, ROOT / "src" / "tollkeeper")
PATH = re.compile(r"(?<![\w./:-])((?:[\w.-]+/)*[\w.-]+\.(?:py|md|toml|sh))(?![\w/])")
FOLDER = re.compile(r"`((?:src|tests|docs|scripts|alembic)/[\w/]*)`")
SHELL_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
TYPE = re.compile(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)*)`")


def exists(path: str, document: Path) -> bool:
    """A path is one of the project, of its package, or relative to the document; a bare file name is any of them."""
    if any((root / path).exists() for root in (*ROOTS, document.parent)):
        return True
    return "/" not in path and any(True for _ in (ROOT / "src").rglob(path))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_a_document_names_only_files_that_exist(document: Path) -> None:
    text = document.read_text()
    named = {match[1] for match in PATH.finditer(text)} | {match[1] for match in FOLDER.finditer(text)}
    assert [path for path in sorted(named) if not exists(path, document)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_no_command_of_a_document_has_what_some_shell_does_not_understand(document: Path) -> None:
    lines = [line for block in SHELL_BLOCK.findall(document.read_text()) for line in block.splitlines()]
    assert [problem for line in lines if (problem := paste_problem(line)) is not None] == []


@pytest.mark.parametrize("shell", EVERY_SHELL)
def test_every_shell_can_parse_the_commands_of_the_documents(shell: str) -> None:
    blocks = [block for document in DOCUMENTS for block in SHELL_BLOCK.findall(document.read_text())]
    assert len(blocks) > 5
    assert syntax_error(shell, "".join(blocks)) == ""


def test_the_requests_of_the_bruno_collection_are_in_order_and_name_paths_that_exist() -> None:
    requests = sorted((ROOT / "docs" / "bruno").glob("*.bru"))
    sources = [path.read_text() for path in (ROOT / "src" / "tollkeeper" / "api").rglob("*.py")]
    for number, request in enumerate(requests, start=1):
        text = request.read_text()
        assert f"seq: {number}\n" in text
        (path,) = re.findall(r"url: \{\{url\}\}(/\S+)", text)
        prefix, _, last = path.rpartition("/")
        declared = (f'"{path}"', f'"/{last}"')
        assert any(name in source for source in sources for name in declared), (request, prefix)
        for body in re.findall(r"^body:json \{\n(.*)\n\}$", text, re.MULTILINE):
            json.loads(body)
    assert len(requests) == 7


def test_the_links_of_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), (document, target)


def test_the_glossary_names_only_types_that_exist() -> None:
    defined = {
        node.name if isinstance(node, ast.ClassDef) else target.id
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef | ast.Assign)
        for target in (node.targets if isinstance(node, ast.Assign) else [ast.Name(node.name)])
        if isinstance(target, ast.Name)
    }
    named = set(TYPE.findall((ROOT / "docs" / "glossary.md").read_text()))
    assert len(named) > 30
    assert named - defined == set()


def test_every_decision_is_listed_and_names_the_check_that_holds_it() -> None:
    index = (ROOT / "docs" / "decisions" / "README.md").read_text()
    for decision in (ROOT / "docs" / "decisions").glob("0*.md"):
        assert decision.name in index
        assert "**Held by**" in decision.read_text(), decision
