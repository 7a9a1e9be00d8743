"""The running server keeps what its OpenAPI document says, and the document says what the server does.

Schemathesis sends valid and invalid requests to every operation, and follows the links between operations. Its settings
and hooks are `support/schemathesis.toml` and `support/openapi_hooks.py`.
"""

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import aiohttp
import pytest
import schemathesis.openapi
from sqlmodel import col, update

from journeys.support.admins import Admin, new_admin
from journeys.support.forged_tokens import forge
from journeys.support.judges import set_judge
from journeys.support.processes import TESTS
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.support.victims import ROWS, Tenant, new_tenant
from support.databases import new_sqlite
from support.depth import DEPTH
from tollkeeper.api.auth import EXAMPLE as LOGIN
from tollkeeper.clock import SystemClock
from tollkeeper.database.engine import Database
from tollkeeper.identity.models import User
from tollkeeper.principal import Role

pytestmark = pytest.mark.exhaustive

SETTINGS = {
    "OPENAI_API_KEY": "",
    "TOLLKEEPER_EMBEDDING_MODEL": "echo",
    "TOLLKEEPER_PRIVATE_NETWORKS": "127.0.0.0/8",
    "TOLLKEEPER_RATE_LIMIT_AI": "off",
    "TOLLKEEPER_RATE_LIMIT_READS": "off",
    "TOLLKEEPER_ACCESS_TOKEN_MINUTES": "1440",
}
"""The only provider is `echo`, and nothing is refused because of the requests before it."""
ADMIN = "/admin/"
UNLIMITED = 10**12
OF_ONE_CALLER = ("Idempotency-Key", "If-Match", "X-Tollkeeper-Group", "X-Tollkeeper-Tags")
"""Headers whose values are of one request or caller."""
"""More tokens than all requests together can hold."""


@pytest.fixture
def contract_server(make_server: Callable[..., Server], tmp_path: Path, migrated_file: Path) -> Iterator[Server]:
    server = make_server(new_sqlite(tmp_path, migrated_file), **SETTINGS).start()
    yield server
    server.stop()
    assert "open holds: 0\n" in server.command("ledger", "verify")


@pytest.fixture
async def caller(contract_server: Server) -> AsyncIterator[ApiUser]:
    """A user with an access token of no session, which no logout among the requests ends."""
    now_s = SystemClock().now_ms() // 1000
    async with new_user(contract_server, limit=UNLIMITED) as user:
        yield replace(user, token=forge(user.principal, {"auth_time": now_s, "exp": now_s + 86_400}))


@pytest.mark.proof
async def test_schemathesis_finds_nothing(contract_server: Server, caller: ApiUser, tmp_path: Path) -> None:
    """As a member, who is refused by every route of the admin API: those are left out."""
    output = await asyncio.to_thread(_run_schemathesis, contract_server, caller.token, tmp_path)
    document = await _document(caller)
    paths = {path: found for path, found in document["paths"].items() if not path.startswith(ADMIN)}
    operations = sum(map(len, paths.values()))
    assert "No issues found" in output, output
    assert f"Tested: {operations}\n" in output, output


def _run_schemathesis(server: Server, token: str, folder: Path) -> str:
    """Returns what it prints. It runs in the folder, where it may leave files."""
    config = TESTS / "journeys" / "support" / "schemathesis.toml"
    seed = [] if DEPTH.contract_seed is None else ["--seed", str(DEPTH.contract_seed)]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"),
            *(f"{server.url}/openapi.json", "--header", f"Authorization: Bearer {token}"),
            *("--exclude-path-regex", f"^{ADMIN}", "--max-examples", str(DEPTH.contract_examples), *seed),
            *("--phases", DEPTH.contract_phases),
        ],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=DEPTH.test_may_take_s,
        check=False,
    )
    return done.stdout + done.stderr


async def test_the_document_is_valid(caller: ApiUser) -> None:
    document = await _document(caller)
    flow = document["components"]["securitySchemes"]["OAuth2PasswordBearer"]["flows"]["password"]
    assert (
        flow["tokenUrl"] == "auth/login"
    )  # OpenAPI allows a relative URL, but the JSON Schema of its documents does not
    flow["tokenUrl"] = f"https://example.com/{flow['tokenUrl']}"
    schemathesis.openapi.from_dict(document).validate()


class Example(NamedTuple):
    """A request as the document shows it."""

    method: str
    path: str
    media_type: str
    body: Any
    parameters: dict[str, list[tuple[str, str]]]
    """Names and values of the parameters, by where they are: path, query, header."""


REFUSED = {
    ("post", "/auth/refresh"): 401,
    ("post", "/auth/password"): 401,
    ("delete", "/auth/totp"): 404,
    ("post", "/auth/totp/confirm"): 404,
    ("post", "/auth/reset"): 400,
    ("post", "/auth/invitations"): 400,
    ("get", "/auth/oidc/{name}/start"): 404,
    ("get", "/auth/oidc/{name}/callback"): 401,
    ("get", "/admin/identity-provider"): 404,
    ("put", "/admin/identity-provider"): 422,
    ("delete", "/admin/identity-provider"): 404,
    ("get", "/admin/provider-keys/{provider}"): 404,
    ("put", "/admin/provider-keys/{provider}"): 404,
    ("delete", "/admin/provider-keys/{provider}"): 404,
    ("delete", "/admin/quotas"): 422,  # the example has a value for every parameter, and so several owners
    ("post", "/v1/batches"): 404,
    ("post", "/admin/webhooks"): 422,
    ("post", "/admin/tenants/{tenant_id}/plan"): 404,
    ("get", "/admin/quotas"): 422,
}
"""Examples with a token, a code, a file, a host, a plan or a provider that a reader would have, and the test has not;
and one with two parameters that exclude each other.
"""


async def test_every_operation_has_an_example_and_each_example_works(contract_server: Server, caller: ApiUser) -> None:
    document = await _document(caller)
    await _name_user(contract_server, caller, LOGIN["username"])
    await caller.query("two", session_id="physics")
    await set_judge(contract_server, caller, "echo")
    examples = [
        example
        for path, operations in document["paths"].items()
        for method, operation in sorted(operations.items(), reverse=True)  # DELETE comes last
        for example in _examples(method, path, operation)
    ]
    assert {(one.method, one.path) for one in examples} == {
        (method, path) for path, operations in document["paths"].items() for method in operations
    }
    async with new_tenant(contract_server) as tenant, new_admin(contract_server, Role.OPERATOR) as operator:
        problems = []
        for example in examples:
            async with _sender(contract_server, example.path, tenant, operator, caller) as sender:
                status, media_type = await _send(sender, example, await _existing(example.path, tenant))
            documented = document["paths"][example.path][example.method]["responses"].get(str(status), {})
            media_types = {name.partition(";")[0] for name in documented.get("content", {})}
            is_expected = status == REFUSED.get((example.method, example.path), status) and (
                status < 300 or (example.method, example.path) in REFUSED
            )
            if not is_expected or (status != 204 and media_type not in media_types):
                problems.append((example.method, example.path, status, media_type))
        assert not problems, "\n".join(map(str, problems))


@asynccontextmanager
async def _sender(
    server: Server, path: str, tenant: Tenant, operator: Admin, caller: ApiUser
) -> AsyncIterator[ApiUser | Admin]:
    """Who may send the example of a path. What is done to a login is done to one that nothing else needs."""
    if path in ROWS:
        owners: dict[str, ApiUser | Admin] = {"member": tenant.member, "tenant_admin": tenant.admin}
        yield owners.get(ROWS[path].owner, operator)
    elif path.startswith("/admin/"):
        yield operator
    elif path.startswith("/auth/") and path != "/auth/login":
        async with new_user(server) as user:
            yield user
    else:
        yield caller


async def _existing(path: str, tenant: Tenant) -> dict[str, Any]:
    """Ids of what exists, by the names of parameters."""
    ids = {"model_id": "echo", "name": "echo", "tenant_id": tenant.id, "user_id": tenant.member.principal.user_id}
    ids["email"] = f"{secrets.token_hex(8)}@example.com"
    return ids | dict(await ROWS[path].make(tenant) if path in ROWS else {})


def _examples(method: str, path: str, operation: dict[str, Any]) -> Iterator[Example]:
    """The examples of an operation. An operation without parameters and body has one: the request itself."""
    parameters: dict[str, list[tuple[str, str]]] = {"path": [], "query": [], "header": []}
    for parameter in operation.get("parameters", ()):
        if parameter["name"] not in OF_ONE_CALLER:
            parameters[parameter["in"]].append((parameter["name"], str(_example_of(parameter["schema"]))))
    if "requestBody" not in operation:
        yield Example(method, path, "", None, parameters)
        return
    for media_type, content in operation["requestBody"]["content"].items():
        found = [content["example"]] if "example" in content else [one["value"] for one in content["examples"].values()]
        for body in found:
            yield Example(method, path, media_type, body, parameters)


def _example_of(schema: dict[str, Any]) -> Any:
    if "examples" in schema:
        return schema["examples"][0]
    return schema["enum"][0] if "enum" in schema else _example_of(schema["anyOf"][0])


async def _send(caller: ApiUser | Admin, example: Example, existing: dict[str, Any]) -> tuple[int, str]:
    """Send an example, with the ids of what exists in place of its own. Returns the status and the media type."""
    path = example.path
    for name, value in example.parameters["path"]:
        path = path.replace(f"{{{name}}}", str(existing.get(name, value)))
    sent = example.body
    if isinstance(sent, dict):
        is_other = {"tenant_id", "user_id"} | ({"email"} if example.path.startswith("/admin/") else set())
        sent = {name: existing[name] if name in is_other else value for name, value in sent.items()}
    body = {"json": sent} if example.media_type == "application/json" else {"data": sent}
    if example.media_type == "multipart/form-data":
        body = {"data": _form(sent)}
    headers = {"Authorization": f"Bearer {caller.token}"} | dict(example.parameters["header"])
    query = [(name, str(existing.get(name, value))) for name, value in example.parameters["query"]]
    async with caller.http.request(
        example.method, f"{path}?{urlencode(query)}", headers=headers, allow_redirects=False, **body
    ) as response:
        await response.read()
        return response.status, response.content_type


def _form(fields: dict[str, str]) -> aiohttp.FormData:
    form = aiohttp.FormData()
    for name, value in fields.items():
        form.add_field(name, value, filename="example.jsonl" if name == "file" else None)
    return form


async def _name_user(server: Server, caller: ApiUser, email: str) -> None:
    """Give the user another e-mail address."""
    database = Database(server.database_url)
    try:
        async with database.session() as session:
            await session.exec(update(User).where(col(User.id) == caller.principal.user_id).values(email=email))
    finally:
        await database.close()


async def _document(caller: ApiUser) -> dict[str, Any]:
    document: dict[str, Any] = (await caller.get("/openapi.json")).body
    return document
