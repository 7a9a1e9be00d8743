"""Requests to the provider: OpenAI's parameters, not stored there, and always with the granted output limit."""

from typing import Any

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import TypeAdapter

from journeys.support.server import Server
from journeys.support.users import new_user
from journeys.upstream.handle import Upstream
from tollkeeper.gateway.candidate import MIN_THINKING_OUTPUT
from tollkeeper.telemetry.trace_context import parse_traceparent

pytestmark = pytest.mark.prove_only_on_postgres

LIMITS = {
    "gpt-4o-mini": "max_tokens",
    "gpt-4.1": "max_tokens",
    "gpt-3.5-turbo": "max_tokens",
    "llama-3.1-8b": "max_tokens",
    "o3-mini": "max_completion_tokens",
    "o1": "max_completion_tokens",
    "gpt-5": "max_completion_tokens",
    "gpt-5-mini": "max_completion_tokens",
}


@pytest.mark.parametrize(("model", "limit"), LIMITS.items())
async def test_the_granted_output_is_sent_in_the_field_that_the_model_takes(
    server: Server, upstream: Upstream, model: str, limit: str
) -> None:
    async with new_user(server) as caller:
        limited = await caller.query(caller.marker, model=model, max_tokens=321)
        unlimited = await caller.query(caller.marker, model=model)
        assert (limited.status, unlimited.status) == (200, 200)
        granted = [charge["granted_output"] for charge in (await caller.charges())[::-1]]
    sent = [request["body"] for request in upstream.requests(caller.marker)]
    usual = 1024 if limit == "max_tokens" else MIN_THINKING_OUTPUT  # models with the newer field bill reasoning
    assert [body[limit] for body in sent] == granted == [321, usual]
    for body in sent:
        _assert_openai_accepts(body)
        assert body["model"] == model
        assert len({"max_tokens", "max_completion_tokens"} & body.keys()) == 1


async def test_the_provider_receives_the_correlation_id_and_a_span_in_the_callers_trace(
    server: Server, upstream: Upstream
) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    async with new_user(server) as caller:
        headers = {"X-Correlation-ID": f"id-{caller.marker}", "traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
        for path in ("/ai/query", "/ai/stream"):
            body = {"prompt": caller.marker}
            async with caller.http.post(path, json=body, headers=caller.auth_headers | headers) as response:
                await response.read()
                assert response.headers["X-Correlation-ID"] == headers["X-Correlation-ID"]
    received = [request["headers"] for request in upstream.requests(caller.marker)]
    assert [one["x-client-request-id"] for one in received] == [headers["X-Correlation-ID"]] * 2
    spans = [parse_traceparent(one["traceparent"].encode()) for one in received]
    assert [(span.trace_id, span.sampled) for span in spans if span is not None] == [(trace_id, True)] * 2
    assert len({"b7ad6b7169203331"} | {span.span_id for span in spans if span is not None}) == 3


async def test_the_prompt_the_system_prompt_and_the_temperature_are_sent(server: Server, upstream: Upstream) -> None:
    async with new_user(server) as caller:
        prompt = f'{caller.marker} "quoted" \\ \n 😀'
        reply = await caller.query(prompt, system_prompt="Be brief.", temperature=0.3, max_tokens=30, cache=True)
        assert reply.status == 200, reply
    (request,) = upstream.requests(caller.marker)
    assert request["body"] == {
        "model": "gpt-4o-mini",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}],
        "temperature": 0.3,
        "max_tokens": 30,
    }
    _assert_openai_accepts(request["body"])


async def test_the_operators_provider_key_is_sent_and_none_of_the_callers_credentials(
    server: Server, upstream: Upstream
) -> None:
    async with new_user(server) as caller:
        headers = caller.auth_headers | {"Cookie": "a=b", "X-Correlation-ID": "mine", "OpenAI-Organization": "org-x"}
        document = {"prompt": caller.marker}
        async with caller.http.post("/ai/query", json=document, headers=headers) as response:
            assert response.status == 200
    (request,) = upstream.requests(caller.marker)
    assert request["path"] == "/v1/chat/completions"
    assert request["headers"]["authorization"] == "Bearer sk-of-the-operator"
    assert request["headers"]["accept-encoding"] == "identity"
    assert caller.token not in str(request["headers"])
    assert not {"cookie", "openai-organization"} & request["headers"].keys()


def _assert_openai_accepts(body: dict[str, Any]) -> None:
    """The body fits the types of OpenAI's package."""
    assert body.keys() <= CompletionCreateParamsNonStreaming.__annotations__.keys() | _inherited()
    TypeAdapter(CompletionCreateParamsNonStreaming).validate_python(body)
    assert "store" not in body, "this server is not OpenAI's"


def _inherited() -> set[str]:
    from openai.types.chat.completion_create_params import CompletionCreateParamsBase

    return set(CompletionCreateParamsBase.__annotations__)
