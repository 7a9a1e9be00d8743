"""The OpenAPI document, as far as it follows from the declarations of the endpoints."""

import json
from typing import Any

import jsonschema_rs
import pytest

from tollkeeper.api import compat
from tollkeeper.api.compat.fields import MAX_TOKENS
from tollkeeper.api.compat.openai import MAX_CHOICES
from tollkeeper.api.metered import MeteredEndpoint
from tollkeeper.api.native.schemas import exactly_one
from tollkeeper.api.openapi import complete_document
from tollkeeper.api.openapi_portable import portable
from tollkeeper.app import ENDPOINTS
from tollkeeper.dialects import chat, completions, embeddings, messages, responses
from tollkeeper.dialects.parameters import REFUSE, Rule

RULES: dict[str, dict[str, Rule]] = {
    "/v1/chat/completions": chat.PARAMETERS,
    "/v1/completions": completions.PARAMETERS,
    "/v1/responses": responses.PARAMETERS,
    "/v1/responses/input_tokens": responses.PARAMETERS,
    "/v1/embeddings": embeddings.PARAMETERS,
    "/v1/messages": messages.PARAMETERS,
    "/v1/messages/count_tokens": messages.PARAMETERS,
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return complete_document({"info": {"description": "An API."}, "paths": {}}, ENDPOINTS)


def test_a_request_schema_has_exactly_the_parameters_that_are_not_refused(document: dict[str, Any]) -> None:
    for path, rules in RULES.items():
        schema = request_schema(document, path)
        assert schema["properties"].keys() == {name for name, rule in rules.items() if rule is not REFUSE}, path
        assert schema["additionalProperties"] is False


@pytest.mark.parametrize("endpoint", compat.ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_every_body_of_a_compatible_endpoint_has_examples_that_fit_its_schema(
    document: dict[str, Any], endpoint: MeteredEndpoint
) -> None:
    operation = document["paths"][endpoint.path]["post"]
    request = operation["requestBody"]["content"]["application/json"]
    response = operation["responses"]["200"]["content"]["application/json"]
    shown = [(request["schema"], one["value"]) for one in request["examples"].values()]
    for schema, value in [*shown, (response["schema"], response["example"])]:
        assert jsonschema_rs.is_valid(schema | {"components": document["components"]}, value), value


def test_a_request_schema_has_the_limits_of_the_endpoint(document: dict[str, Any]) -> None:
    properties = request_schema(document, "/v1/chat/completions")["properties"]
    assert properties["max_completion_tokens"]["anyOf"][0]["maximum"] == MAX_TOKENS
    assert properties["n"]["anyOf"][0]["maximum"] == MAX_CHOICES


def test_a_parameter_with_one_allowed_value_has_it_in_the_schema(document: dict[str, Any]) -> None:
    assert request_schema(document, "/v1/responses")["properties"]["store"]["anyOf"][0] == {
        "type": "boolean",
        "const": False,
    }


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_the_headers_of_requests_are_documented_where_they_have_an_effect(
    document: dict[str, Any], endpoint: MeteredEndpoint
) -> None:
    operation = document["paths"][endpoint.path]["post"]
    names = [parameter["name"] for parameter in operation["parameters"]]
    of_calls = ["Idempotency-Key", "X-Tollkeeper-Cache"] if endpoint.calls_model else []
    assert names == [*of_calls, "X-Tollkeeper-Group", "X-Tollkeeper-Tags"]
    assert ({"409", "502", "504"} <= operation["responses"].keys()) == endpoint.calls_model
    assert ("Idempotent-Replayed" in operation["responses"]["200"]["headers"]) == endpoint.calls_model


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_an_error_has_the_media_type_and_the_headers_of_its_api(
    document: dict[str, Any], endpoint: MeteredEndpoint
) -> None:
    refusal = document["paths"][endpoint.path]["post"]["responses"]["429"]
    is_sdk = endpoint.path.startswith("/v1/")
    assert list(refusal["content"]) == ["application/json" if is_sdk else "application/problem+json"]
    assert ("X-Error-Code" in refusal["headers"]) == is_sdk
    assert {"X-Correlation-ID", "Retry-After"} <= refusal["headers"].keys()


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_a_stream_is_documented_by_its_events(document: dict[str, Any], endpoint: MeteredEndpoint) -> None:
    content = document["paths"][endpoint.path]["post"]["responses"]["200"]["content"]
    assert ("text/event-stream" in content) == bool(endpoint.events)
    for event in content.get("text/event-stream", {"schema": {"anyOf": []}})["schema"]["anyOf"]:
        data = event["properties"]["data"]
        assert data == {"const": "[DONE]"} or data["contentSchema"]["$ref"].startswith("#/components/schemas/")


def test_no_pattern_has_a_meaning_in_python_only(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    assert r"\\Z" not in text
    assert r'"pattern": "^[^\\s\\x1c-\\x1f\\x85]{1,200}$"' in text


def test_the_document_says_what_a_path_answers_to_another_method(document: dict[str, Any]) -> None:
    assert "405" in document["info"]["description"]


def test_an_enumeration_has_the_type_of_its_values() -> None:
    body = {"title": "Sent", "properties": {"a": {"enum": ["x", "y"]}, "b": {"enum": ["x", 1]}, "c": {"enum": [True]}}}
    operation = {"requestBody": {"content": {"application/json": {"schema": body}}}}
    found = portable({"paths": {"/": {"post": operation}}, "components": {"schemas": {}}})
    assert found["components"]["schemas"]["Sent"]["properties"] == {
        "a": {"enum": ["x", "y"], "type": "string"},
        "b": {"enum": ["x", 1]},
        "c": {"const": True, "type": "boolean"},
    }
    content = found["paths"]["/"]["post"]["requestBody"]["content"]["application/json"]
    assert content["schema"] == {"$ref": "#/components/schemas/Sent"}


def test_exactly_one_of_several_fields_is_a_rule_of_the_schema() -> None:
    rules = exactly_one("prompt", "message")["allOf"][0]["oneOf"]
    assert [rule["required"] for rule in rules] == [["prompt"], ["message"]]


def request_schema(document: dict[str, Any], path: str) -> dict[str, Any]:
    ref: str = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    schema: dict[str, Any] = document["components"]["schemas"][ref.rpartition("/")[2]]
    return schema
