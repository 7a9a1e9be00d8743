"""The worked examples of docs/budgets.md, one after the other: the commands run, and the API accepts the bodies."""

import re
import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.command_runner import CommandRunner
from tollkeeper.api.admin.alerts import CreateAlertRuleRequest
from tollkeeper.api.admin.keys import CreateKeyForUserRequest
from tollkeeper.api.admin.plans import AssignPlanRequest, CreatePlanRequest
from tollkeeper.api.admin.quota_requests import GrantQuotaRequestRequest
from tollkeeper.api.admin.quotas import SetQuotaRequest
from tollkeeper.api.native.jobs import SubmitJobRequest
from tollkeeper.api.native.schemas import QueryRequest
from tollkeeper.api.quota_requests import AskForQuotaRequest

pytestmark = pytest.mark.prove_only_on_postgres

DOCUMENT = Path(__file__).parents[2] / "docs" / "budgets.md"
LINES = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    for line in block.replace("\\\n", "").splitlines()
]
TYPES: dict[str, Any] = {
    "/admin/keys": CreateKeyForUserRequest,
    "/admin/quotas": SetQuotaRequest,
    "/ai/query": QueryRequest,
    "/ai/jobs": SubmitJobRequest,
    "/me/quota/requests": AskForQuotaRequest,
    "/admin/quota-requests/5/grant": GrantQuotaRequestRequest,
    "/admin/plans": CreatePlanRequest,
    "/admin/tenants/2/plan": AssignPlanRequest,
    "/admin/alerts/rules": CreateAlertRuleRequest,
}
KEY = "key_0123456789abcdef01234567"


def test_the_commands_of_the_examples_run(acme: CommandRunner) -> None:
    assert acme.invoke("key", "create", "ada@example.com", "--name", "nightly").code == 0
    acme.query(f"UPDATE api_keys SET id = '{KEY}'")
    ran = 0
    for line in LINES:
        if line.startswith("tollkeeper "):
            arguments = shlex.split(line)[1:]
            if arguments[:2] == ["tenant", "create"]:  # the one of the other examples is there
                arguments[2] = "another"
            assert acme.run(*arguments), line
            ran += 1
    assert ran >= 18


def test_the_api_accepts_the_bodies_of_the_examples() -> None:
    bodies = [line for line in LINES if line.startswith("curl ")]
    for line in bodies:
        words = shlex.split(line)
        if "-d" not in words:
            assert "DELETE" in words, line
            continue
        path = next(word for word in words if word.startswith("http")).removeprefix("http://127.0.0.1:8000")
        msgspec.json.decode(words[words.index("-d") + 1], type=TYPES[path])
    assert len(bodies) >= 10
