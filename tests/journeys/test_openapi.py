"""The OpenAPI document, its pages, and the routes that need no credential."""

import base64
import hashlib
import json
import re
from typing import Any
from urllib.parse import urljoin

import pytest

from journeys.support.server import Server
from journeys.support.users import PASSWORD, http_client, new_user
from tollkeeper.app import ENDPOINTS

pytestmark = pytest.mark.prove_only_on_postgres

LOGIN = f'{{"username": "nobody@example.com", "password": "{PASSWORD}"}}'
GET_ROUTES = (
    "/auth/keys",
    "/me",
    "/me/quota",
    "/me/charges",
    "/me/charges/{charge_id}",
    "/ai/models",
    "/ai/sessions",
    "/ai/sessions/{session_id}",
    "/v1/models",
    "/v1/models/{model_id}",
)
REFUSED = (
    *[("GET", path, path, None, 401) for path in GET_ROUTES],
    ("GET", "/auth/keys", "/auth/keys", None, 403),
    ("GET", "/ai/models", "/ai/models", None, 403),
    ("GET", "/v1/models", "/v1/models", None, 403),
    ("GET", "/me/charges", "/me/charges?limit=0", None, 422),
    ("GET", "/me/charges/{charge_id}", "/me/charges/chg_1", None, 404),
    ("GET", "/ai/sessions", "/ai/sessions?limit=0", None, 422),
    ("GET", "/ai/sessions/{session_id}", "/ai/sessions/none", None, 404),
    ("DELETE", "/ai/sessions/{session_id}", "/ai/sessions/none", None, 401),
    ("DELETE", "/ai/sessions/{session_id}", "/ai/sessions/none", None, 404),
    ("GET", "/v1/models/{model_id}", "/v1/models/", None, 404),
    ("POST", "/auth/keys", "/auth/keys", "{", 400),
    ("POST", "/auth/keys", "/auth/keys", "{}", 401),
    ("POST", "/auth/keys", "/auth/keys", "{}", 403),
    ("POST", "/auth/keys", "/auth/keys", "{}", 422),
    ("DELETE", "/auth/keys/{key_id}", "/auth/keys/key_1", None, 401),
    ("DELETE", "/auth/keys/{key_id}", "/auth/keys/key_1", None, 404),
    ("POST", "/auth/login", "/auth/login", "{", 400),
    ("POST", "/auth/login", "/auth/login", LOGIN, 401),
    ("POST", "/auth/login", "/auth/login", "{}", 422),
)
"""Method, path in the document, requested path, body and status. 403 is for an API key with the scope `me` only."""


async def test_the_document_describes_the_query_endpoint_with_schemas_and_security(server: Server) -> None:
    async with http_client(server) as http, http.get("/openapi.json") as response:
        assert response.status == 200
        document = await response.json()
    operation = document["paths"]["/ai/query"]["post"]
    assert operation["security"] == [{"OAuth2PasswordBearer": []}, {"APIKey": []}]
    request_schema = _resolve(document, operation["requestBody"]["content"]["application/json"]["schema"])
    assert request_schema["required"] == ["prompt"]
    assert request_schema["additionalProperties"] is False
    assert {"model", "system_prompt", "max_tokens", "temperature", "context_allocation"} <= request_schema[
        "properties"
    ].keys()
    response_schema = _resolve(document, operation["responses"]["200"]["content"]["application/json"]["schema"])
    assert {"query_id", "answer", "usage", "cost", "quota"} <= response_schema["properties"].keys()
    for status in ("400", "401", "404", "408", "409", "413", "422", "429", "502", "503", "504"):
        problem = operation["responses"][status]["content"]["application/problem+json"]["schema"]
        assert "code" in _resolve(document, problem)["properties"]
    assert _dangling(document) == set()


async def test_every_route_of_the_contract_is_in_the_document(server: Server) -> None:
    async with http_client(server) as http, http.get("/openapi.json") as response:
        paths = (await response.json())["paths"]
    assert {
        "/",
        "/health",
        "/health/live",
        "/health/ready",
        "/auth-status",
        "/auth/login",
        "/me",
        "/me/quota",
        "/me/charges",
        "/me/charges/{charge_id}",
        "/ai/query",
    } <= paths.keys()


async def test_operation_ids_are_short_unique_and_stable(server: Server) -> None:
    """Clients are generated with them: `client.list_users()`. A name may be added, and none may change."""
    async with http_client(server) as http, http.get("/openapi.json") as response:
        paths = (await response.json())["paths"]
    ids = [operation["operationId"] for operations in paths.values() for operation in operations.values()]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[a-z][a-z0-9_]{1,29}", one) for one in ids)
    assert {"list_users", "get_user", "login", "get_me", "list_my_keys", "ai_query", "get_auth_status"} <= set(ids)
    assert "content" not in paths["/auth/oidc/{name}/start"]["get"]["responses"]["302"]
    [media_type] = paths["/metrics"]["get"]["responses"]["200"]["content"]
    assert media_type.startswith("text/plain; version=")


async def test_every_metered_endpoint_documents_404_and_if_it_calls_a_model_409(server: Server) -> None:
    async with http_client(server) as http, http.get("/openapi.json") as response:
        paths = (await response.json())["paths"]
    for endpoint in ENDPOINTS:
        responses = paths[endpoint.path]["post"]["responses"]
        assert "404" in responses, endpoint.path
        assert ("409" in responses) == endpoint.calls_model, endpoint.path


async def test_clients_can_repeat_and_condition_the_acts_of_an_administrator(server: Server) -> None:
    """Generated clients send only the headers that the document has, and read only its statuses."""
    async with http_client(server) as http, http.get("/openapi.json") as response:
        paths = (await response.json())["paths"]
    acts = {
        path: operations["post"]
        for path, operations in paths.items()
        if path.startswith("/admin/") and "requestBody" in operations.get("post", {})
    }
    assert "/admin/quotas/grant" in acts
    for path, act in acts.items():
        assert "Idempotency-Key" in [one["name"] for one in act["parameters"]], path
        assert {"409", "422"} <= act["responses"].keys(), path
    for path, method in (
        ("/admin/tenants/{tenant_id}", "patch"),
        ("/admin/users/{user_id}", "patch"),
        ("/admin/identity-provider", "put"),
    ):
        change = paths[path][method]
        assert "If-Match" in [one["name"] for one in change["parameters"]], path
        assert "412" in change["responses"], path
        for operation in (change, paths[path]["get"]):
            assert "ETag" in operation["responses"]["200"]["headers"], path


async def test_bodies_and_times_have_schemas_that_generated_clients_understand(server: Server) -> None:
    async with http_client(server) as http, http.get("/openapi.json") as response:
        document = await response.json()
    schemas = document["components"]["schemas"]
    cursors = [
        one["schema"]["anyOf"][0]["type"]
        for operations in document["paths"].values()
        for one in operations.get("get", {}).get("parameters", ())
        if one["name"] == "cursor"
    ]
    assert set(cursors) == {"string"}  # as `next_cursor`
    assert [name for name in schemas if "__" in name] == []  # two classes with one name
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for content in operation.get("requestBody", {"content": {}})["content"].values():
                assert "$ref" in content["schema"] or content["schema"].get("format") == "binary", path
    times = [
        (name, field, json.dumps(schema))
        for name, kind in schemas.items()
        for field, schema in kind.get("properties", {}).items()
        if name.endswith("Response") and (field.endswith("_at") or field in ("at", "since"))
    ]
    assert len(times) > 20
    assert [found for found in times if '"format": "date-time"' not in found[2]] == []
    assert _dangling(document) == set()


async def test_every_refusal_of_a_route_is_documented(server: Server) -> None:
    """Each request in REFUSED is refused with a response that the document describes."""
    async with new_user(server) as caller:
        document = (await caller.get("/openapi.json")).body
        key = (await caller.make_key(scopes=["me"])).body["key"]
        for method, template, path, body, status in REFUSED:
            bearer = {401: {}, 403: {"Authorization": f"Bearer {key}"}}.get(status, caller.auth_headers)
            headers = bearer | {"Content-Type": "application/json"}
            async with caller.http.request(method, path, data=body, headers=headers) as response:
                assert response.status == status, (method, path, await response.text())
                documented = document["paths"][template][method.lower()]["responses"][str(status)]["content"]
                assert response.content_type in documented, (method, path)


async def test_the_authorize_button_of_the_docs_works(server: Server) -> None:
    """Swagger UI reads the token URL from the document, and sends the OAuth2 password form there."""
    async with new_user(server) as caller, http_client(server) as http:
        async with http.get("/docs") as response:
            assert response.status == 200
            assert response.content_type == "text/html"
        async with http.get("/openapi.json") as response:
            scheme = (await response.json())["components"]["securitySchemes"]["OAuth2PasswordBearer"]
        assert scheme["type"] == "oauth2"
        url = "/" + scheme["flows"]["password"]["tokenUrl"].lstrip("/")
        form = {
            "grant_type": "password",
            "username": caller.email,
            "password": PASSWORD,
            "scope": "",
            "client_id": "",
            "client_secret": "",
        }
        async with http.post(url, data=form) as response:
            assert response.status == 200
            token = (await response.json())["access_token"]
        async with http.get("/me", headers={"Authorization": f"Bearer {token}"}) as response:
            assert (await response.json())["email"] == caller.email


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_the_pages_of_the_document_load_everything_from_this_server(server: Server, page: str) -> None:
    async with http_client(server) as http:
        async with http.get(page) as response:
            policy = response.headers["Content-Security-Policy"]
            html = await response.text()
        assert not re.search("(?i)https?://|[\"'(]//", html)
        sources = re.findall(r'(?:src|href|spec-url)="([^"]+)"', html) + re.findall(r"url: '([^']+)'", html)
        loaded = {}
        for source in sources:
            async with http.get(urljoin(page, source)) as response:
                assert response.status == 200, source
                loaded[urljoin(page, source)] = response.content_type, len(await response.read())
    assert loaded.pop("/openapi.json")[0] == "application/json"
    media_types = {"js": "text/javascript", "css": "text/css", "png": "image/png"}
    for path, (media_type, size) in loaded.items():
        assert media_type == media_types[path.rpartition(".")[2]], path
        assert size > 1_000, path
    assert any(path.endswith(".js") for path in loaded)
    assert {"default-src 'none'", "connect-src 'self'"} <= set(policy.split("; "))
    assert "http" not in policy
    for script in re.findall(r"<script>(.*?)</script>", html, re.DOTALL):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy


async def test_the_root_and_health_need_no_credential(server: Server) -> None:
    async with http_client(server) as http:
        for path in ("/", "/health", "/health/ready", "/health/live", "/redoc"):
            async with http.get(path) as response:
                assert response.status == 200, path
        async with http.get("/health") as response:
            health = await response.json()
    assert (health["status"] in ("healthy", "degraded"), health["problems"]) == (True, None)  # as a busy machine is


def _resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def _dangling(document: dict[str, Any]) -> set[str]:
    """References to schemas that do not exist."""
    text = json.dumps(document)
    referenced = {part.partition('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]}
    return referenced - set(document["components"]["schemas"])


async def test_every_reference_of_the_document_leads_to_something(server: Server) -> None:
    async with http_client(server) as http, http.get("/openapi.json") as response:
        text = await response.text()
    document = json.loads(text)
    references = set(re.findall(r'"\$ref":\s*"([^"]+)"', text))
    assert len(references) > 50
    for reference in references:
        assert reference.startswith("#/components/"), reference
        _, _, kind, name = reference.split("/")
        assert name in document["components"][kind], reference
