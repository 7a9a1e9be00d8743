"""Each request of an authenticated caller to a metered endpoint has one event, also if it is refused early."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.metered_endpoints import TOKEN, EndpointsUnderTest, headers_with_key, open_endpoints
from tollkeeper import errors
from tollkeeper.api.compat import ENDPOINTS as COMPAT_ENDPOINTS
from tollkeeper.api.native import ENDPOINTS as NATIVE_ENDPOINTS


@pytest.fixture
async def endpoints(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EndpointsUnderTest]:
    async with open_endpoints(sqlite_url, monkeypatch) as opened:
        yield opened


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, None),
        ({"body": b"{"}, "invalid_json"),
        ({"body": b"{}"}, "invalid_request"),
        ({"body": b"x" * 2**21}, "body_too_large"),
        ({"headers": headers_with_key(b"a b")}, "invalid_json"),
        ({"body": b'{"prompt": "x", "evaluate": true}'}, "unsupported_parameter"),
        ({"body": b'{"prompt": "x", "model": "other"}'}, "not_found"),
    ],
)
@pytest.mark.parametrize("path", ["/ai/query", "/ai/stream"])
async def test_a_request_of_an_authenticated_caller_has_one_event(
    endpoints: EndpointsUnderTest, path: str, fields: dict[str, Any], error: str | None
) -> None:
    await endpoints.post(path, **fields)
    [event] = endpoints.gateway.seen
    assert (event.surface, event.error, event.user_id) == (path[4:], error, endpoints.gateway.caller.user_id)


async def test_a_request_above_the_rate_limit_has_an_event(endpoints: EndpointsUnderTest) -> None:
    for _ in range(21):
        await endpoints.post("/ai/query")
    assert [event.error for event in endpoints.gateway.seen] == [None] * 20 + ["rate_limited"]


@pytest.mark.parametrize("fields", [{"headers": []}, {"headers": [TOKEN, TOKEN]}, {"method": "GET"}])
async def test_a_request_without_a_valid_credential_has_no_event(
    endpoints: EndpointsUnderTest, fields: dict[str, Any]
) -> None:
    await endpoints.post("/ai/query", **fields)
    assert endpoints.gateway.seen == []


async def test_a_stream_that_fails_after_its_begin_has_one_event_with_the_error(endpoints: EndpointsUnderTest) -> None:
    endpoints.gateway.provider.streams = [[*endpoints.gateway.provider.streams[0][:1], errors.ProviderInterrupted()]]
    response = await endpoints.post("/ai/stream")
    [event] = endpoints.gateway.seen
    assert event.charge is not None
    assert (response.status, event.error, event.charge.basis) == (200, "provider_error", "counted")


def test_the_surface_of_an_endpoint_is_its_path_without_the_prefix() -> None:
    surfaces = {endpoint.surface for endpoint in (*NATIVE_ENDPOINTS, *COMPAT_ENDPOINTS)}
    assert surfaces >= {"query", "stream", "chat", "chat/completions", "responses", "messages", "embeddings"}
