"""Each path below /v1/ answers errors in the format of its API, whatever the error is."""

import io
import json
from collections.abc import Mapping
from typing import Any

import pytest

from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user

OF_ANTHROPIC = ("/v1/messages", "/v1/messages/count_tokens")
OF_OPENAI = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/responses/input_tokens",
    "/v1/embeddings",
)
TYPES = {401: "authentication_error", 404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error"}


async def error_of(
    caller: ApiUser, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b"{}"
) -> tuple[int, dict[str, Any]]:
    async with caller.http.request(
        method, path, headers=headers or caller.auth_headers, data=io.BytesIO(body)
    ) as response:
        assert response.headers["X-Error-Code"]
        return response.status, json.loads(await response.read())


def assert_is_anthropics(status: int, error: dict[str, Any]) -> None:
    assert error.keys() == {"type", "error"}
    assert (error["type"], error["error"].keys()) == ("error", {"type", "message"})
    assert error["error"]["type"] == TYPES.get(status, "invalid_request_error")


def assert_is_openais(error: dict[str, Any]) -> None:
    assert error.keys() == {"error"}
    assert error["error"].keys() == {"message", "type", "param", "code"}


REQUESTS: dict[str, tuple[int, Any]] = {
    "GET": (405, lambda caller, path: error_of(caller, "GET", path)),
    "without a credential": (401, lambda caller, path: error_of(caller, "POST", path, {"x-other": "1"})),
    "compressed": (
        415,
        lambda caller, path: error_of(caller, "POST", path, caller.auth_headers | {"Content-Encoding": "br"}),
    ),
    "invalid": (400, lambda caller, path: error_of(caller, "POST", path, body=b"{")),
    "not there": (404, lambda caller, path: error_of(caller, "POST", f"{path}/nothing")),
    "not there, without a credential": (404, lambda caller, path: error_of(caller, "GET", f"{path}/x/y", {"a": "b"})),
}


@pytest.mark.parametrize("path", [*OF_ANTHROPIC, *OF_OPENAI])
@pytest.mark.parametrize(("status", "send"), REQUESTS.values(), ids=REQUESTS)
async def test_an_error_has_the_format_of_its_path(echo_server: Server, path: str, status: int, send: Any) -> None:
    async with new_user(echo_server) as caller:
        answered, error = await send(caller, path)
    assert answered == status
    if path in OF_ANTHROPIC:
        assert_is_anthropics(status, error)
    else:
        assert_is_openais(error)


@pytest.mark.parametrize("path", [*OF_ANTHROPIC, *OF_OPENAI])
async def test_a_body_that_is_too_large_and_a_quota_have_it_too(echo_server: Server, path: str) -> None:
    async with new_user(echo_server, limit=1) as caller:
        large = await error_of(caller, "POST", path, body=b" " * (20 * 1024 * 1024 + 1))
        refused = None
        if path in ("/v1/messages", "/v1/completions"):
            fields = {"prompt": "x"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "x"}]}
            body = json.dumps({"max_tokens": 50} | fields).encode()
            refused = await error_of(caller, "POST", path, body=body)
    assert large[0] == 413
    assert refused is None or refused[0] == 429
    for status, error in (large, refused or large):
        if path in OF_ANTHROPIC:
            assert_is_anthropics(status, error)
        else:
            assert_is_openais(error)


@pytest.mark.parametrize("path", ["/v1/", "/v1/filesx", "/v1/batchesx/x", "/v1/messagesx", "/v1/messages-x/y"])
async def test_any_other_path_has_openais_format_unless_anthropics_version_is_sent(
    echo_server: Server, path: str
) -> None:
    async with new_user(echo_server) as caller:
        status, error = await error_of(caller, "GET", path)
        assert status == 404
        assert_is_openais(error)
        status, error = await error_of(caller, "GET", path, {"anthropic-version": "2023-06-01"})
        assert_is_anthropics(status, error)
