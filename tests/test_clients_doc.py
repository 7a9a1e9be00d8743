"""docs/clients.md says the same as the tables of rules."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from tollkeeper.dialects import chat, embeddings, messages, responses
from tollkeeper.dialects.messages.declarations import BETAS
from tollkeeper.dialects.parameters import DROP, OMIT, OURS, PASS, PRICE, REFUSE, Only, Rule, Treatment

DOCUMENT = (Path(__file__).parents[1] / "docs" / "clients.md").read_text()
WORDS = {PASS: "passed", PRICE: "passed", OURS: "ours", DROP: "dropped", OMIT: "dropped", REFUSE: "refused"}
RULES: dict[str, Mapping[str, Rule]] = {
    "/v1/messages": messages.PARAMETERS,
    "/v1/responses": responses.PARAMETERS,
    "/v1/chat/completions": chat.PARAMETERS,
    "/v1/embeddings": embeddings.PARAMETERS,
}
ROW = re.compile(r"^\| `(\w+)` \| ([^|]+) \|", re.MULTILINE)


def expected(rule: Rule) -> str:
    word = WORDS[rule if isinstance(rule, Treatment) else rule.treatment]
    return f"{word}, other values refused" if isinstance(rule, Only) else word


@pytest.mark.parametrize("path", RULES)
def test_each_parameter_is_listed_with_its_treatment(path: str) -> None:
    section = re.split(r"^## ", DOCUMENT.partition(f"## `POST {path}`")[2], maxsplit=1, flags=re.MULTILINE)[0]
    table = section.partition("|---|---|---|")[2].partition("\n\n")[0]
    assert dict(ROW.findall(table)) == {name: expected(rule) for name, rule in RULES[path].items()}


def test_the_betas_that_are_passed_are_listed() -> None:
    (listed,) = re.findall(r"^Betas that are passed: (.+)\.$", DOCUMENT, re.MULTILINE)
    assert set(listed.replace("`", "").split(", ")) == BETAS
