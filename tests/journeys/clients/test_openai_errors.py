"""The `openai` client with its default retries: errors are raised as the client's own types."""

import asyncio
from typing import Any

import openai as sdk
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam

from journeys.clients.recording_client import recording_client
from journeys.clients.samples import USAGE
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user, set_limit
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.windows import Period

MODEL = "gpt-4o-mini"
UNKNOWN: list[dict[str, Any]] = [{"shiny": True}, {"store": True}]


def user_messages(prompt: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": prompt}]


@pytest.mark.parametrize("token", ["wrong", "sk-something"])
async def test_a_wrong_key_is_an_authentication_error(sdk_server: Server, token: str) -> None:
    async with AsyncOpenAI(base_url=f"{sdk_server.url}/v1", api_key=token) as client:
        with pytest.raises(sdk.AuthenticationError) as caught:
            await client.chat.completions.create(model=MODEL, messages=user_messages("x"))
        with pytest.raises(sdk.AuthenticationError):
            await client.responses.create(model=MODEL, input="x")
        with pytest.raises(sdk.AuthenticationError):
            await client.embeddings.create(model=MODEL, input="x")
        with pytest.raises(sdk.AuthenticationError):
            await client.models.list()
    assert (caught.value.code, caught.value.type) == ("invalid_api_key", "invalid_request_error")
    assert "Incorrect API key provided" in caught.value.message, "LiteLLM recognizes a wrong key by these words"


async def test_an_unknown_model_is_a_not_found_error(openai: AsyncOpenAI, caller: ApiUser) -> None:
    with pytest.raises(sdk.NotFoundError) as caught:
        await openai.chat.completions.create(model="no-such-model", messages=user_messages("x"))
    assert (caught.value.code, caught.value.status_code) == ("model_not_found", 404)
    with pytest.raises(sdk.NotFoundError):
        await openai.responses.create(model="no-such-model", input="x", stream=True)
    with pytest.raises(sdk.NotFoundError):
        await openai.embeddings.create(model="no-such-model", input="x")
    assert await caller.charges() == []


async def test_an_unknown_parameter_is_a_bad_request_that_names_it(
    openai: AsyncOpenAI, caller: ApiUser, upstream: Upstream
) -> None:
    for unknown in UNKNOWN:
        with pytest.raises(sdk.BadRequestError) as caught:
            await openai.chat.completions.create(model=MODEL, messages=user_messages(caller.marker), extra_body=unknown)
        (name,) = unknown
        assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")
        assert caught.value.type == "invalid_request_error"
        assert name in caught.value.message
    for unsupported in ({"previous_response_id": "resp_1"}, {"background": True}, {"conversation": "conv_1"}):
        with pytest.raises(sdk.BadRequestError) as caught:
            await openai.responses.create(model=MODEL, input=caller.marker, extra_body=unsupported)
        (name,) = unsupported
        assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")
    with pytest.raises(sdk.BadRequestError) as caught:
        await openai.chat.completions.create(model=MODEL, messages=user_messages(caller.marker), max_tokens=-2)
    assert caught.value.param == "max_tokens"
    assert upstream.requests(caller.marker) == await caller.charges() == []


async def test_a_used_up_quota_is_not_retried(sdk_server: Server, upstream: Upstream) -> None:
    async with new_user(sdk_server, limit=20) as user, recording_client(sdk_server, user) as (client, recorded):
        with pytest.raises(sdk.RateLimitError) as caught:
            await client.chat.completions.create(model=MODEL, messages=user_messages(user.marker))
        assert (caught.value.code, caught.value.type) == ("insufficient_quota", "insufficient_quota")
        assert len(recorded.sent) == 1
        with pytest.raises(sdk.RateLimitError):
            await client.chat.completions.create(model=MODEL, messages=user_messages(user.marker), stream=True)
        with pytest.raises(sdk.RateLimitError):
            await client.responses.create(model=MODEL, input=user.marker)
        with pytest.raises(sdk.RateLimitError):
            await client.embeddings.create(model="text-embedding-3-small", input=user.marker * 10)
        assert len(recorded.sent) == 4
        assert upstream.requests(user.marker) == []
        assert "X-Quota-Remaining" in caught.value.response.headers


async def test_a_used_up_quota_of_a_minute_is_a_rate_limit(sdk_server: Server, upstream: Upstream) -> None:
    """The client would wait for the next minute; without retries it raises what OpenAI's own rate limit does."""
    async with new_user(sdk_server) as user:
        await set_limit(sdk_server, user.principal, 1, Period.MINUTE, unit=Unit.REQUESTS)
        async with AsyncOpenAI(base_url=f"{sdk_server.url}/v1", api_key=user.token, max_retries=0) as client:

            async def call_thrice() -> None:
                for _ in range(3):  # a minute may end between two of them
                    await client.chat.completions.create(model=MODEL, messages=user_messages(user.marker))

            with pytest.raises(sdk.RateLimitError) as caught:
                await call_thrice()
    headers = caught.value.response.headers
    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "requests")
    assert (headers["X-Error-Code"], headers.get("x-should-retry")) == ("quota_exceeded", None)
    assert 0 < int(headers["Retry-After"]) <= 60


async def test_a_quota_that_is_held_by_another_call_is_retried(sdk_server: Server, upstream: Upstream) -> None:
    """The client waits for the time in Retry-After, and gets its answer."""
    async with new_user(sdk_server, limit=900) as caller, recording_client(sdk_server, caller) as (client, recorded):
        with upstream.gate(caller.marker):
            prompt = scripted(caller.marker, gate=caller.marker, usage=USAGE)
            first = asyncio.create_task(
                client.chat.completions.create(model=MODEL, messages=user_messages(prompt), max_tokens=500)
            )
            async with asyncio.timeout(TEST_DEADLINE_S):
                while not upstream.waiting(caller.marker):
                    await asyncio.sleep(0.02)
            second = asyncio.create_task(
                client.chat.completions.create(
                    model=MODEL, messages=user_messages(scripted(caller.marker, usage=USAGE)), max_tokens=500
                )
            )
            async with asyncio.timeout(TEST_DEADLINE_S):
                while recorded.statuses != [429]:
                    await asyncio.sleep(0.02)
        await asyncio.gather(first, second)
        assert sorted(recorded.statuses) == [200, 200, 429]
        assert (await caller.quota())["used"] == 48


@pytest.mark.parametrize("fault", [{"reset_after": 2}, {"close_after": 2}, {"error_after": 2}])
async def test_a_stream_that_breaks_raises(
    openai: AsyncOpenAI, caller: ApiUser, upstream: Upstream, fault: dict[str, Any]
) -> None:
    """What was received is charged, and the client does not retry."""
    prompt = scripted(caller.marker, chunks=["one ", "two ", "three "], **fault)
    stream = await openai.chat.completions.create(
        model=MODEL, messages=user_messages(prompt), stream=True, max_tokens=50
    )
    with pytest.raises(sdk.APIError) as caught:
        await _read(stream)
    assert caught.value.code == "provider_error"
    assert "SECRET" not in str(caught.value)
    (charge,) = await caller.charges()
    assert (charge["state"], charge["basis"]) == ("settled", "counted")
    assert len(upstream.requests(caller.marker)) == 1


@pytest.mark.parametrize("model", [MODEL, "at-anthropic"])
async def test_a_response_stream_that_breaks_raises(
    openai: AsyncOpenAI, caller: ApiUser, upstream: Upstream, model: str
) -> None:
    prompt = scripted(caller.marker, chunks=["one ", "two ", "three "], reset_after=2)
    stream = await openai.responses.create(model=model, input=prompt, stream=True, max_output_tokens=50)
    with pytest.raises(sdk.APIError) as caught:
        await _read(stream)
    assert caught.value.code == "provider_error"
    async with openai.responses.stream(model=model, input=prompt, max_output_tokens=50) as helper:
        with pytest.raises(sdk.APIError):
            await helper.get_final_response()
    assert len(upstream.requests(caller.marker)) == 2
    assert {(charge["state"], charge["basis"]) for charge in await caller.charges()} == {("settled", "counted")}


async def test_a_call_that_may_have_been_billed_is_not_retried(
    sdk_short_timeout_server: Server, upstream: Upstream
) -> None:
    """The provider times out: a retry would be charged again."""
    async with (
        new_user(sdk_short_timeout_server) as caller,
        recording_client(sdk_short_timeout_server, caller) as (client, recorded),
    ):
        with upstream.gate(caller.marker), pytest.raises(sdk.InternalServerError) as caught:
            await client.chat.completions.create(
                model=MODEL,
                messages=user_messages(scripted(caller.marker, gate_after_log=caller.marker)),
                max_tokens=50,
            )
        assert (caught.value.status_code, caught.value.code) == (504, "provider_timeout")
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert len(recorded.sent) == len(upstream.requests(caller.marker)) == len(await caller.charges()) == 1


async def test_a_provider_error_that_the_retry_overcomes_is_not_visible(openai: AsyncOpenAI, caller: ApiUser) -> None:
    prompt = scripted(caller.marker, status=500, fail_times=1, usage=USAGE)
    whole = await openai.chat.completions.create(model=MODEL, messages=user_messages(prompt))
    assert whole.choices[0].finish_reason == "stop"
    assert (await caller.quota())["used"] == 24


async def test_the_error_text_of_the_provider_is_not_returned(openai: AsyncOpenAI, caller: ApiUser) -> None:
    with pytest.raises(sdk.BadRequestError) as caught:
        await openai.chat.completions.create(model=MODEL, messages=user_messages(scripted(caller.marker, status=400)))
    assert "SECRET" not in str(caught.value.body)
    assert caught.value.response.headers["X-Error-Code"] == "provider_rejected"
    assert (await caller.quota())["used"] == 0


async def test_a_call_with_the_same_key_is_made_once(openai: AsyncOpenAI, caller: ApiUser, upstream: Upstream) -> None:
    prompt = scripted(caller.marker, usage=USAGE)
    key = {"Idempotency-Key": caller.marker}
    answers = [
        await openai.chat.completions.create(model=MODEL, messages=user_messages(prompt), extra_headers=key)
        for _ in range(2)
    ]
    key = {"Idempotency-Key": f"{caller.marker}-stream"}
    streams = [
        await _read(
            await openai.chat.completions.create(
                model=MODEL, messages=user_messages(prompt), stream=True, extra_headers=key
            )
        )
        for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert streams[0] == streams[1]
    assert len(upstream.requests(caller.marker)) == 2
    assert (await caller.quota())["used"] == 48
    with pytest.raises(sdk.UnprocessableEntityError) as caught:
        await openai.chat.completions.create(model=MODEL, messages=user_messages("another"), extra_headers=key)
    assert caught.value.response.headers["X-Error-Code"] == "idempotency_key_reused"


async def test_an_unknown_route_is_a_not_found_error(openai: AsyncOpenAI) -> None:
    with pytest.raises(sdk.NotFoundError) as caught:
        await openai.fine_tuning.jobs.list()
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"]


async def test_a_raised_quota_applies_at_once(sdk_server: Server) -> None:
    async with new_user(sdk_server, limit=20) as user, recording_client(sdk_server, user) as (client, _):
        with pytest.raises(sdk.RateLimitError):
            await client.chat.completions.create(model=MODEL, messages=user_messages(user.marker))
        await set_limit(sdk_server, user.principal, 100_000)
        await client.chat.completions.create(model=MODEL, messages=user_messages(scripted(user.marker, usage=USAGE)))
        assert (await user.quota())["used"] == 24


async def _read(stream: Any) -> list[Any]:
    return [event async for event in stream]


async def test_every_answer_and_every_error_has_a_request_id_which_is_the_correlation_id(
    openai: AsyncOpenAI,
) -> None:
    known = {"X-Correlation-ID": "my-request.1"}
    whole = await openai.chat.completions.create(model="echo", messages=user_messages("hello"), extra_headers=known)
    assert whole._request_id == "my-request.1"
    with pytest.raises(sdk.BadRequestError) as refused:
        await openai.chat.completions.create(model="echo", messages=[], extra_headers=known)
    assert refused.value.request_id == "my-request.1"


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (401, 1), (500, 6)])
async def test_the_client_retries_only_errors_that_may_pass(
    openai: AsyncOpenAI, caller: ApiUser, upstream: Upstream, status: int, requests: int
) -> None:
    """By default the client makes three calls, and each makes two requests to a provider that fails."""
    with pytest.raises(sdk.InternalServerError):
        await openai.chat.completions.create(
            model=MODEL, messages=user_messages(scripted(caller.marker, status=status))
        )
    assert len(upstream.requests(caller.marker)) == requests
