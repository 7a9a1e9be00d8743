"""Metered endpoints on a real ledger: streamed responses, and how they end."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from support.gateway import final_chunks, text_chunk
from support.metered_endpoints import AsgiRequest, EndpointsUnderTest, headers_with_key, open_endpoints
from tollkeeper import errors
from tollkeeper.api.compat.openai import CHAT_COMPLETIONS
from tollkeeper.api.native.query import STREAM
from tollkeeper.chat import TextDelta
from tollkeeper.dialects.sse import DONE
from tollkeeper.providers.base import StreamChunk
from tollkeeper.quota.rules.idempotency_keys import MAX_STORED_BYTES

CHAT_BODY = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]}'


@pytest.fixture
async def endpoints(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EndpointsUnderTest]:
    async with open_endpoints(sqlite_url, monkeypatch) as endpoints:
        yield endpoints


async def test_a_stream_too_long_to_be_stored_is_sent_whole_but_not_replayed(endpoints: EndpointsUnderTest) -> None:
    long_chunk = StreamChunk(b"x" * MAX_STORED_BYTES, (TextDelta("x"),))
    endpoints.gateway.provider.streams = [[long_chunk, text_chunk("y"), *final_chunks()]]
    headers = headers_with_key(b"key")
    first, again = [await endpoints.post(CHAT_COMPLETIONS.path, body=CHAT_BODY, headers=headers) for _ in range(2)]
    assert first.content == b"x" * MAX_STORED_BYTES + b"y<finish>" + DONE
    assert (again.status, again.response_headers["x-error-code"]) == (409, "previous_attempt_interrupted")
    assert len(endpoints.gateway.provider.calls) == 1


async def test_a_stream_is_settled_before_its_final_event(endpoints: EndpointsUnderTest) -> None:
    gateway, sent_before_the_end = endpoints.gateway, list[str]()
    request = AsgiRequest(STREAM.path)
    gateway.provider.streams = [
        [
            text_chunk("He"),
            text_chunk("llo"),
            lambda: sent_before_the_end.append(request.content.decode()),
            *final_chunks(),
        ]
    ]
    await endpoints.send(request)
    *deltas, final, done = request.events
    assert [(delta["content"], delta["sequence"]) for delta in deltas] == [("He", 0), ("llo", 1)]
    assert not any(delta["is_final"] for delta in deltas)
    assert (final["is_final"], final["cost"], final["usage"]["total_tokens"], done) == (True, 50, 50, "[DONE]")
    assert final["quota"]["used"] == 50
    assert (final["query_id"], request.is_complete) == ((await gateway.charge()).id, True)
    headers = request.response_headers
    assert (headers["x-charge-id"], headers["content-type"]) == (final["query_id"], "text/event-stream")
    assert sent_before_the_end[0].count("data:") == 2, "each chunk is sent as soon as it is received"


async def test_a_stream_that_fails_before_its_first_chunk_returns_an_error_status(
    endpoints: EndpointsUnderTest,
) -> None:
    endpoints.gateway.provider.streams = [[errors.ProviderTimeout()]]
    response = await endpoints.post(STREAM.path)
    assert (response.status, response.document["code"]) == (504, "provider_timeout")
    assert response.response_headers["x-charge-id"] == (await endpoints.gateway.charge()).id


async def test_a_stream_that_fails_after_its_first_chunk_ends_with_an_error_and_without_done(
    endpoints: EndpointsUnderTest,
) -> None:
    endpoints.gateway.provider.streams = [[text_chunk("He"), errors.ProviderFailed()]]
    response = await endpoints.post(STREAM.path)
    assert response.status == 200
    assert [event.get("code") for event in response.events] == [None, "provider_error"]
    assert (response.is_complete, DONE in response.content) == (True, False)


async def test_an_internal_error_ends_a_stream_with_internal_error_and_no_details(
    endpoints: EndpointsUnderTest,
) -> None:
    endpoints.gateway.provider.streams = [[text_chunk("He"), ZeroDivisionError("SECRET")]]
    request = AsgiRequest(STREAM.path)
    with pytest.raises(ZeroDivisionError):
        await endpoints.send(request)
    assert [event.get("code") for event in request.events] == [None, "internal_error"]
    assert (request.is_complete, b"SECRET" in request.content) == (True, False)


async def test_a_stream_that_is_cut_by_a_shutdown_ends_with_shutting_down(endpoints: EndpointsUnderTest) -> None:
    started = asyncio.Event()
    endpoints.gateway.provider.streams = [[text_chunk("He"), started.set, asyncio.Event()]]
    request = AsgiRequest(STREAM.path)
    task = asyncio.create_task(endpoints.send(request))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [event.get("code") for event in request.events] == [None, "shutting_down"]
    assert (request.is_complete, (await endpoints.gateway.charge()).basis) == (True, "counted")


async def test_nothing_is_sent_after_the_client_has_disconnected(endpoints: EndpointsUnderTest) -> None:
    request = AsgiRequest(STREAM.path)
    endpoints.gateway.provider.streams = [[text_chunk("He"), request.disconnect.set, asyncio.Event()]]
    await endpoints.send(request)
    assert [event["content"] for event in request.events] == ["He"]
    assert not request.is_complete
    charge = await endpoints.gateway.charge()
    assert (charge.basis, charge.output_tokens, endpoints.gateway.provider.unfinished_streams) == ("counted", 2, 1)


async def test_a_stream_without_text_is_complete(endpoints: EndpointsUnderTest) -> None:
    endpoints.gateway.provider.streams = [final_chunks()]
    response = await endpoints.post(STREAM.path)
    assert [event if isinstance(event, str) else event["is_final"] for event in response.events] == [True, "[DONE]"]


async def test_a_providers_stream_on_the_same_wire_is_passed_on_byte_for_byte(endpoints: EndpointsUnderTest) -> None:
    endpoints.gateway.provider.streams = [[text_chunk("<one>"), text_chunk("<two>"), *final_chunks()]]
    response = await endpoints.post(CHAT_COMPLETIONS.path, body=CHAT_BODY)
    assert response.content == b"<one><two><finish>" + DONE
