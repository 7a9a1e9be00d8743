"""A path that does not exist: an SDK with a wrong base URL is told which one is right."""

from contextlib import nullcontext

import pytest

from support.metered_endpoints import AsgiRequest
from tollkeeper.api.dependencies import Services
from tollkeeper.app import create_app
from tollkeeper.clock import SystemClock
from tollkeeper.rate_limits.throttle import Throttle
from tollkeeper.telemetry.logging import AccessLog

HINT = "No such endpoint. OpenAI SDKs: the base URL ends in /v1; Anthropic SDKs: it does not."


@pytest.mark.parametrize(
    ("path", "hinted"),
    [
        ("/v1/v1/messages", True),
        ("/v1/audio/speech", True),
        ("/chat/completions", True),
        ("/messages", True),
        ("/models", True),
        ("/ai/foo", False),
        ("/foo", False),
    ],
)
async def test_an_unknown_path_is_not_found_and_an_sdk_is_told_its_base_url(path: str, hinted: bool) -> None:
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
        "headers": [(b"host", b"test")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await app(scope, request.receive, request.send)
    assert request.status == 404
    assert (HINT in request.content.decode()) is hinted
    assert "No such endpoint." in request.content.decode()
