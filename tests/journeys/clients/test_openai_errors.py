"""The `openai` client as it comes, with its retries: what goes wrong reaches the caller as the client's own errors."""

import asyncio
from typing import Any

import openai as sdk
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam

from journeys.clients.recording_client import watched
from journeys.clients.samples import USAGE
from journeys.support.server import Server
from journeys.support.users import Person, person, set_limit
from journeys.upstream.handle import Upstream, scripted
from patience import PATIENCE_S

MODEL = "gpt-4o-mini"
UNKNOWN: list[dict[str, Any]] = [{"shiny": True}, {"web_search_options": {}}, {"store": True}]


def asked(prompt: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": prompt}]


@pytest.mark.parametrize("token", ["wrong", "sk-something"])
async def test_a_wrong_key_is_an_authentication_error(house: Server, token: str) -> None:
    async with AsyncOpenAI(base_url=f"{house.url}/v1", api_key=token) as client:
        with pytest.raises(sdk.AuthenticationError) as caught:
            await client.chat.completions.create(model=MODEL, messages=asked("x"))
        with pytest.raises(sdk.AuthenticationError):
            await client.responses.create(model=MODEL, input="x")
        with pytest.raises(sdk.AuthenticationError):
            await client.embeddings.create(model=MODEL, input="x")
        with pytest.raises(sdk.AuthenticationError):
            await client.models.list()
    assert (caught.value.code, caught.value.type) == ("invalid_api_key", "invalid_request_error")


async def test_a_model_that_is_not_there_is_not_found(openai: AsyncOpenAI, caller: Person) -> None:
    with pytest.raises(sdk.NotFoundError) as caught:
        await openai.chat.completions.create(model="no-such-model", messages=asked("x"))
    assert (caught.value.code, caught.value.status_code) == ("model_not_found", 404)
    with pytest.raises(sdk.NotFoundError):
        await openai.responses.create(model="no-such-model", input="x", stream=True)
    with pytest.raises(sdk.NotFoundError):
        await openai.embeddings.create(model="no-such-model", input="x")
    assert await caller.charges() == []


async def test_a_parameter_that_nobody_knows_is_a_bad_request_that_names_it(
    openai: AsyncOpenAI, caller: Person, upstream: Upstream
) -> None:
    for unknown in UNKNOWN:
        with pytest.raises(sdk.BadRequestError) as caught:
            await openai.chat.completions.create(model=MODEL, messages=asked(caller.marker), extra_body=unknown)
        (name,) = unknown
        assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")
        assert caught.value.type == "invalid_request_error"
        assert name in caught.value.message
    for kept in ({"previous_response_id": "resp_1"}, {"background": True}, {"conversation": "conv_1"}):
        with pytest.raises(sdk.BadRequestError) as caught:
            await openai.responses.create(model=MODEL, input=caller.marker, extra_body=kept)
        (name,) = kept
        assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")
    with pytest.raises(sdk.BadRequestError) as caught:
        await openai.chat.completions.create(model=MODEL, messages=asked(caller.marker), max_tokens=-1)
    assert caught.value.param == "max_tokens"
    assert upstream.seen(caller.marker) == await caller.charges() == []


async def test_a_quota_that_is_used_up_is_told_once_and_not_asked_for_again(house: Server, upstream: Upstream) -> None:
    async with person(house, limit=20) as poor, watched(house, poor) as (client, watch):
        with pytest.raises(sdk.RateLimitError) as caught:
            await client.chat.completions.create(model=MODEL, messages=asked(poor.marker))
        assert (caught.value.code, caught.value.type) == ("insufficient_quota", "insufficient_quota")
        assert len(watch.sent) == 1
        with pytest.raises(sdk.RateLimitError):
            await client.chat.completions.create(model=MODEL, messages=asked(poor.marker), stream=True)
        with pytest.raises(sdk.RateLimitError):
            await client.responses.create(model=MODEL, input=poor.marker)
        with pytest.raises(sdk.RateLimitError):
            await client.embeddings.create(model="text-embedding-3-small", input=poor.marker * 10)
        assert len(watch.sent) == 4
        assert upstream.seen(poor.marker) == []
        assert "X-Quota-Remaining" in caught.value.response.headers


async def test_room_that_is_held_for_a_moment_is_waited_for(house: Server, upstream: Upstream) -> None:
    """Here a retry is right: the client waits as it is told, and gets its answer."""
    async with person(house, limit=900) as caller, watched(house, caller) as (client, watch):
        with upstream.gate(caller.marker):
            prompt = scripted(caller.marker, gate=caller.marker, usage=USAGE)
            first = asyncio.create_task(
                client.chat.completions.create(model=MODEL, messages=asked(prompt), max_tokens=500)
            )
            async with asyncio.timeout(PATIENCE_S):
                while not upstream.waiting(caller.marker):
                    await asyncio.sleep(0.02)
            second = asyncio.create_task(
                client.chat.completions.create(
                    model=MODEL, messages=asked(scripted(caller.marker, usage=USAGE)), max_tokens=500
                )
            )
            async with asyncio.timeout(PATIENCE_S):
                while watch.heard != [429]:
                    await asyncio.sleep(0.02)
        await asyncio.gather(first, second)
        assert sorted(watch.heard) == [200, 200, 429]
        assert (await caller.quota())["used"] == 48


@pytest.mark.parametrize("fault", [{"reset_after": 2}, {"close_after": 2}, {"error_after": 2}])
async def test_a_stream_that_breaks_raises(
    openai: AsyncOpenAI, caller: Person, upstream: Upstream, fault: dict[str, Any]
) -> None:
    """What was received is paid, and the client does not ask again."""
    prompt = scripted(caller.marker, chunks=["one ", "two ", "three "], **fault)
    stream = await openai.chat.completions.create(model=MODEL, messages=asked(prompt), stream=True, max_tokens=50)
    with pytest.raises(sdk.APIError) as caught:
        await _read(stream)
    assert caught.value.code == "provider_error"
    assert "SECRET" not in str(caught.value)
    (charge,) = await caller.charges()
    assert (charge["state"], charge["basis"]) == ("settled", "counted")
    assert len(upstream.seen(caller.marker)) == 1


@pytest.mark.parametrize("model", [MODEL, "at-anthropic"])
async def test_a_response_that_breaks_raises(
    openai: AsyncOpenAI, caller: Person, upstream: Upstream, model: str
) -> None:
    prompt = scripted(caller.marker, chunks=["one ", "two ", "three "], reset_after=2)
    stream = await openai.responses.create(model=model, input=prompt, stream=True, max_output_tokens=50)
    with pytest.raises(sdk.APIError) as caught:
        await _read(stream)
    assert caught.value.code == "provider_error"
    async with openai.responses.stream(model=model, input=prompt, max_output_tokens=50) as helper:
        with pytest.raises(sdk.APIError):
            await helper.get_final_response()
    assert len(upstream.seen(caller.marker)) == 2
    assert {(charge["state"], charge["basis"]) for charge in await caller.charges()} == {("settled", "counted")}


async def test_a_call_that_may_have_been_billed_is_not_made_again(hasty: Server, upstream: Upstream) -> None:
    """A provider that is too late: the client's retries would be paid twice."""
    async with person(hasty) as caller, watched(hasty, caller) as (client, watch):
        with upstream.gate(caller.marker), pytest.raises(sdk.InternalServerError) as caught:
            await client.chat.completions.create(
                model=MODEL, messages=asked(scripted(caller.marker, gate_after_log=caller.marker)), max_tokens=50
            )
        assert (caught.value.status_code, caught.value.code) == (504, "provider_timeout")
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert len(watch.sent) == len(upstream.seen(caller.marker)) == len(await caller.charges()) == 1


async def test_a_provider_that_failed_for_once_is_not_noticed(openai: AsyncOpenAI, caller: Person) -> None:
    prompt = scripted(caller.marker, status=500, fail_times=1, usage=USAGE)
    whole = await openai.chat.completions.create(model=MODEL, messages=asked(prompt))
    assert whole.choices[0].finish_reason == "stop"
    assert (await caller.quota())["used"] == 24


async def test_what_the_provider_says_of_an_error_stays_with_the_server(openai: AsyncOpenAI, caller: Person) -> None:
    with pytest.raises(sdk.BadRequestError) as caught:
        await openai.chat.completions.create(model=MODEL, messages=asked(scripted(caller.marker, status=400)))
    assert "SECRET" not in str(caught.value.body)
    assert caught.value.response.headers["X-Error-Code"] == "provider_rejected"
    assert (await caller.quota())["used"] == 0


async def test_a_call_with_the_same_key_is_made_once(openai: AsyncOpenAI, caller: Person, upstream: Upstream) -> None:
    prompt = scripted(caller.marker, usage=USAGE)
    key = {"Idempotency-Key": caller.marker}
    answers = [
        await openai.chat.completions.create(model=MODEL, messages=asked(prompt), extra_headers=key) for _ in range(2)
    ]
    key = {"Idempotency-Key": f"{caller.marker}-stream"}
    streams = [
        await _read(
            await openai.chat.completions.create(model=MODEL, messages=asked(prompt), stream=True, extra_headers=key)
        )
        for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert streams[0] == streams[1]
    assert len(upstream.seen(caller.marker)) == 2
    assert (await caller.quota())["used"] == 48
    with pytest.raises(sdk.UnprocessableEntityError) as caught:
        await openai.chat.completions.create(model=MODEL, messages=asked("another"), extra_headers=key)
    assert caught.value.response.headers["X-Error-Code"] == "idempotency_key_reused"


async def test_a_route_that_is_not_here_is_not_found_in_the_clients_words(openai: AsyncOpenAI) -> None:
    with pytest.raises(sdk.NotFoundError) as caught:
        await openai.files.list()
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"]


async def test_a_raised_quota_is_good_at_once(house: Server) -> None:
    async with person(house, limit=20) as poor, watched(house, poor) as (client, _):
        with pytest.raises(sdk.RateLimitError):
            await client.chat.completions.create(model=MODEL, messages=asked(poor.marker))
        await set_limit(house, poor.principal, 100_000)
        await client.chat.completions.create(model=MODEL, messages=asked(scripted(poor.marker, usage=USAGE)))
        assert (await poor.quota())["used"] == 24


async def _read(stream: Any) -> list[Any]:
    return [event async for event in stream]


async def test_every_answer_and_every_error_has_a_request_id_which_is_the_correlation_id(
    openai: AsyncOpenAI,
) -> None:
    known = {"X-Correlation-ID": "my-request.1"}
    whole = await openai.chat.completions.create(model="echo", messages=asked("hello"), extra_headers=known)
    assert whole._request_id == "my-request.1"
    with pytest.raises(sdk.BadRequestError) as refused:
        await openai.chat.completions.create(model="echo", messages=[], extra_headers=known)
    assert refused.value.request_id == "my-request.1"


@pytest.mark.parametrize(("status", "asked_for"), [(404, 1), (401, 1), (500, 6)])
async def test_the_client_does_not_try_again_where_that_helps_nobody(
    openai: AsyncOpenAI, caller: Person, upstream: Upstream, status: int, asked_for: int
) -> None:
    """By default it tries three times, and a provider that fails is asked twice each time."""
    with pytest.raises(sdk.InternalServerError):
        await openai.chat.completions.create(model=MODEL, messages=asked(scripted(caller.marker, status=status)))
    assert len(upstream.seen(caller.marker)) == asked_for
