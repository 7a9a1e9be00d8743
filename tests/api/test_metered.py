"""Metered endpoints on a real ledger: access, the body of the request, whole responses and idempotency keys."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from support.deadlines import TEST_DEADLINE_S
from support.gateway import USAGE, text_chunk
from support.metered_endpoints import PROMPT, TOKEN, AsgiRequest, EndpointsUnderTest, headers_with_key, open_endpoints
from tollkeeper import errors
from tollkeeper.api import middleware
from tollkeeper.api.body_budget import BodyBudget
from tollkeeper.api.compat.openai import CHAT_COMPLETIONS
from tollkeeper.api.native.query import QUERY, STREAM
from tollkeeper.chat import Completion
from tollkeeper.clock import SystemClock
from tollkeeper.rate_limits.throttle import Throttle


@pytest.fixture
async def endpoints(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EndpointsUnderTest]:
    async with open_endpoints(sqlite_url, monkeypatch) as endpoints:
        yield endpoints


async def test_a_path_of_no_metered_endpoint_is_passed_on(endpoints: EndpointsUnderTest) -> None:
    assert (await endpoints.post("/elsewhere")).status == 418


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"method": "GET"}, 405, "method_not_allowed"),
        ({"headers": []}, 401, "unauthenticated"),
        ({"headers": [(b"authorization", b"Bearer bad")]}, 401, "unauthenticated"),
        ({"headers": [TOKEN, TOKEN]}, 401, "unauthenticated"),
        ({"headers": [], "body": b"x" * 2**21}, 401, "unauthenticated"),
        ({"body": b"x" * 2**21}, 413, "body_too_large"),
        ({"body": b"{"}, 400, "invalid_json"),
        ({"body": b"{}"}, 422, "invalid_request"),
        ({"headers": headers_with_key(b"")}, 400, "invalid_json"),
        ({"headers": headers_with_key(b"a b")}, 400, "invalid_json"),
        ({"headers": headers_with_key(b"a" * 256)}, 400, "invalid_json"),
        ({"headers": headers_with_key(b"a", b"b")}, 400, "invalid_json"),
    ],
)
@pytest.mark.parametrize("path", [QUERY.path, STREAM.path])
async def test_a_refused_request_returns_the_reason_and_calls_no_model(
    endpoints: EndpointsUnderTest, path: str, fields: dict[str, Any], status: int, code: str
) -> None:
    refused = await endpoints.post(path, **fields)
    assert (refused.status, refused.document["code"], refused.is_complete) == (status, code, True)
    assert (endpoints.gateway.provider.calls, await endpoints.gateway.charges()) == ([], [])


async def test_a_request_above_the_rate_limit_is_refused_with_retry_after(endpoints: EndpointsUnderTest) -> None:
    for _ in range(20):
        assert (await endpoints.post(QUERY.path)).status == 200
    for path in (QUERY.path, STREAM.path):
        refused = await endpoints.post(path)
        assert (refused.status, refused.document["code"]) == (429, "rate_limited")
        assert 1 <= int(refused.response_headers["retry-after"]) <= 60
    assert len(endpoints.gateway.provider.calls) == len(await endpoints.gateway.charges()) == 20


async def test_the_rate_limit_is_checked_before_the_body_is_read(endpoints: EndpointsUnderTest) -> None:
    endpoints.services.throttle = Throttle(login="off", ai="1/minute", clock=SystemClock())
    await endpoints.post(QUERY.path)
    refused = await endpoints.post(QUERY.path, body=b"{")
    assert (refused.status, refused.document["code"], refused.body_was_read) == (429, "rate_limited", False)


async def test_a_body_that_does_not_arrive_in_time_is_refused(
    endpoints: EndpointsUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "BODY_TIMEOUT_S", 0.01)
    for path, code in ((QUERY.path, "code"), (CHAT_COMPLETIONS.path, "error")):
        refused = await endpoints.post(path, first_chunks=[PROMPT], body=None)
        assert (refused.status, refused.response_headers["connection"], code in refused.document) == (
            408,
            "close",
            True,
        )
    assert (endpoints.gateway.provider.calls, await endpoints.gateway.charges()) == ([], [])


async def test_a_client_that_disconnects_within_its_body_starts_no_call_even_if_the_json_is_complete(
    endpoints: EndpointsUnderTest,
) -> None:
    request = AsgiRequest(QUERY.path, first_chunks=[PROMPT], body=None)
    request.disconnect.set()
    with pytest.raises(ClientDisconnect):
        await endpoints.send(request)
    assert (request.sent, endpoints.gateway.provider.calls, await endpoints.gateway.charges()) == ([], [], [])


async def test_a_body_may_arrive_in_chunks(endpoints: EndpointsUnderTest) -> None:
    assert (await endpoints.post(QUERY.path, first_chunks=[b"", PROMPT[:3]], body=PROMPT[3:])).status == 200
    refused = await endpoints.post(QUERY.path, first_chunks=[b"x" * 2**20], body=b"x")
    assert (refused.status, refused.document["code"]) == (413, "body_too_large")


async def test_the_body_of_a_call_counts_against_the_budget_until_the_call_ends(
    endpoints: EndpointsUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(PROMPT)
    budget = BodyBudget(max_per_user=2 * size - 1, max_in_total=3 * size - 1)
    monkeypatch.setattr(endpoints.router, "_body_budget", budget)
    started = asyncio.Event()
    endpoints.gateway.provider.streams = [[text_chunk("He"), started.set, asyncio.Event()]]
    first = AsgiRequest(STREAM.path)
    running = asyncio.create_task(endpoints.send(first))
    async with asyncio.timeout(TEST_DEADLINE_S):
        await started.wait()
    refused = await endpoints.post(QUERY.path)
    assert (refused.status, refused.document["code"]) == (429, "rate_limited")
    assert int(refused.response_headers["retry-after"]) in (1, 2)  # with jitter
    assert len(endpoints.gateway.provider.calls) == 1
    first.disconnect.set()
    await running
    assert [(await endpoints.post(QUERY.path)).status for _ in range(3)] == [200] * 3
    assert (await endpoints.post(QUERY.path, body=b"{")).status == 400
    assert (await endpoints.post(QUERY.path)).status == 200


async def test_a_credential_is_accepted_in_the_header_that_anthropics_clients_use(
    endpoints: EndpointsUnderTest,
) -> None:
    assert (await endpoints.post(QUERY.path, headers=[(b"x-api-key", b"good")])).status == 200


async def test_a_response_names_its_charge_cost_and_remaining_quota(endpoints: EndpointsUnderTest) -> None:
    response = await endpoints.post(QUERY.path)
    charge = await endpoints.gateway.charge()
    assert (response.status, response.document["answer"], response.document["cost"]) == (200, "yes", 50)
    assert response.document["query_id"] == response.response_headers["x-charge-id"] == charge.id
    assert response.response_headers["x-quota-remaining"] == str(10_000 - 50)
    assert response.response_headers["content-length"] == str(len(response.content))


async def test_a_failed_call_names_its_charge_in_the_error_format_of_the_endpoint(
    endpoints: EndpointsUnderTest,
) -> None:
    endpoints.gateway.provider.completions = [errors.ProviderRejected()]
    response = await endpoints.post(CHAT_COMPLETIONS.path, body=b'{"messages": [{"role": "user", "content": "hi"}]}')
    assert (response.status, response.document["error"]["type"]) == (400, "invalid_request_error")
    assert response.response_headers["x-error-code"] == "provider_rejected"
    assert response.response_headers["x-charge-id"] == (await endpoints.gateway.charge()).id


async def test_a_providers_response_on_the_same_wire_is_passed_on_byte_for_byte(
    endpoints: EndpointsUnderTest,
) -> None:
    body = b'{"model": "m", "stream": false, "messages": [{"role": "user", "content": "hi"}]}'
    endpoints.gateway.provider.completions = [Completion("yes", "stop", USAGE, raw=b"<raw>")]
    assert (await endpoints.post(CHAT_COMPLETIONS.path, body=body)).content == b"<raw>"


@pytest.mark.parametrize("path", [QUERY.path, STREAM.path])
async def test_a_repeated_idempotency_key_returns_the_stored_response_for_free(
    endpoints: EndpointsUnderTest, path: str
) -> None:
    first, replayed = [await endpoints.post(path, headers=headers_with_key(b"key")) for _ in range(2)]
    assert first.content == replayed.content
    assert replayed.response_headers["idempotent-replayed"] == "true"
    assert replayed.response_headers["content-type"] == first.response_headers["content-type"]
    assert "idempotent-replayed" not in first.response_headers
    assert sorted(charge.cost_tokens for charge in await endpoints.gateway.charges()) == [0, 50]
    assert len(endpoints.gateway.provider.calls) == 1


async def test_an_idempotency_key_is_valid_for_one_endpoint_and_one_body(endpoints: EndpointsUnderTest) -> None:
    await endpoints.post(QUERY.path, headers=headers_with_key(b"key"))
    for fields in ({"path": STREAM.path}, {"path": QUERY.path, "body": b'{"prompt": "ho"}'}):
        refused = await endpoints.post(headers=headers_with_key(b"key"), **fields)
        assert (refused.status, refused.document["code"]) == (422, "idempotency_key_reused")
