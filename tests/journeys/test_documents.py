"""The documents that the server shows: OpenAPI, its pages, the front door."""

import json
from typing import Any

from journeys.people import PASSWORD, person, visitor
from journeys.server import Server


async def test_the_openapi_document_describes_the_door_with_its_schemas_and_security(server: Server) -> None:
    async with visitor(server) as http, http.get("/openapi.json") as response:
        assert response.status == 200
        document = await response.json()
    asked = document["paths"]["/ai/query"]["post"]
    assert asked["security"] == [{"OAuth2PasswordBearer": []}, {"APIKey": []}]
    taken = _resolve(document, asked["requestBody"]["content"]["application/json"]["schema"])
    assert taken["required"] == ["prompt"]
    assert taken["additionalProperties"] is False
    assert {"model", "system_prompt", "max_tokens", "temperature", "context_allocation"} <= taken["properties"].keys()
    given = _resolve(document, asked["responses"]["200"]["content"]["application/json"]["schema"])
    assert {"query_id", "answer", "usage", "cost", "quota"} <= given["properties"].keys()
    for status in ("400", "401", "413", "422", "429", "502", "503", "504"):
        problem = asked["responses"][status]["content"]["application/problem+json"]["schema"]
        assert "code" in _resolve(document, problem)["properties"]
    assert _dangling(document) == set()


async def test_every_route_of_the_contract_is_in_the_document(server: Server) -> None:
    async with visitor(server) as http, http.get("/openapi.json") as response:
        paths = (await response.json())["paths"]
    assert {
        "/",
        "/health",
        "/health/live",
        "/health/ready",
        "/auth/login",
        "/me",
        "/me/quota",
        "/me/charges",
        "/me/charges/{charge_id}",
        "/ai/query",
    } <= paths.keys()


async def test_the_authorize_button_of_the_docs_works(server: Server) -> None:
    """It reads the token URL from the document and sends the OAuth2 password form there."""
    async with person(server) as caller, visitor(server) as http:
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


async def test_the_front_door_and_health_need_no_token(server: Server) -> None:
    async with visitor(server) as http:
        for path in ("/", "/health", "/health/ready", "/health/live", "/redoc"):
            async with http.get(path) as response:
                assert response.status == 200, path
        async with http.get("/health") as response:
            health = await response.json()
    assert (health["status"], health["ledger"], health["provider"]) == ("ok", "ok", "openai")


def _resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def _dangling(document: dict[str, Any]) -> set[str]:
    """References that lead nowhere."""
    text = json.dumps(document)
    referred = {part.partition('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]}
    return referred - set(document["components"]["schemas"])
