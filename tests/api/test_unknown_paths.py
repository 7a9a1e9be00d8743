"""A path that does not exist: the error names the right base URL to an SDK with a wrong one, in the SDK's format."""

import json
from contextlib import nullcontext

import pytest

from support.metered_endpoints import AsgiRequest
from tollkeeper.api.dependencies import Services
from tollkeeper.app import create_app
from tollkeeper.clock import SystemClock
from tollkeeper.rate_limits.throttle import Throttle
from tollkeeper.telemetry.logging import AccessLog

HINT = (
    "No such endpoint: a path of these APIs begins with /v1, once."
    " OpenAI SDKs: the base URL ends in /v1; Anthropic SDKs: it does not."
)


@pytest.mark.parametrize(
    ("path", "wire", "hinted"),
    [
        ("/v1/v1/messages", "anthropic", True),
        ("/messages", "anthropic", True),
        ("/v1/v1/chat/completions", "openai", True),
        ("/v1/chat/completions/chat/completions", "openai", True),
        ("/openai/v1/chat/completions", "openai", True),
        ("/chat/completions", "openai", True),
        ("/responses", "openai", True),
        ("/models", "openai", True),
        ("/v1/audio/speech", "openai", False),
        ("/v1/images/generations", "openai", False),
        ("/ai/foo", "problem", False),
        ("/foo", "problem", False),
    ],
)
async def test_an_unknown_path_is_not_found_and_an_sdk_is_told_its_base_url(path: str, wire: str, hinted: bool) -> None:
    services: nullcontext[Services] = nullcontext()  # type: ignore[assignment]
    app = create_app(lambda: services, Throttle(login="off", ai="off", clock=SystemClock()), AccessLog("error"), "")
    request = AsgiRequest(path)
    scope = {
        "type": "http",
        "http_version": "1.1",
        "scheme": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"test"), *([(b"anthropic-version", b"2023-06-01")] if wire == "anthropic" else [])],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await app(scope, request.receive, request.send)
    assert request.status == 404
    body = json.loads(request.content)
    assert (body.get("type") == "error") is (wire == "anthropic")
    message = body["detail"] if wire == "problem" else body["error"]["message"]
    assert message == (HINT if hinted else "No such endpoint. GET /docs lists all endpoints.")
