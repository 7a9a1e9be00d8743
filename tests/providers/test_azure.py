"""Azure OpenAI: the addresses of its deployments, and the header with the key."""

from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr

from tollkeeper.chat import ChatRequest, Message
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.errors import InvalidRequest
from tollkeeper.providers import azure
from tollkeeper.providers.base import CallInput, Model, RawRequest, Wire
from tollkeeper.providers.kind import ConfiguredProvider, ProviderOptions
from tollkeeper.settings import Settings

HELLO = CallInput(lambda: ChatRequest((Message("user", "hello"),)))
ANSWERS: dict[Wire, dict[str, Any]] = {
    Wire.CHAT: {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2},
    },
    Wire.EMBEDDINGS: {"data": [{"index": 0, "embedding": [0.5]}], "usage": {"prompt_tokens": 3}},
    Wire.RESPONSES: {
        "status": "completed",
        "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]}],
        "usage": {"input_tokens": 9, "output_tokens": 2},
    },
}
CHAT = HELLO
EMBEDDINGS = CallInput(HELLO.read_request, RawRequest(Wire.EMBEDDINGS, {"input": b'"a"'}, InputSize(1)))
RESPONSES = CallInput(HELLO.read_request, RawRequest(Wire.RESPONSES, {"input": b'"a"'}, InputSize(1)))


def configure(base_url: str, **options: Any) -> ConfiguredProvider:
    return azure.KIND.from_catalog(ProviderOptions("east", base_url, SecretStr("the-key"), **options), Settings())


async def sent(
    call_input: CallInput, after_the_host: str, **options: Any
) -> tuple[str, dict[str, str], dict[str, Any]]:
    """The address, with its query, the headers and the body of one call to the deployment `my-gpt`."""
    received: list[tuple[str, dict[str, str], dict[str, Any]]] = []

    async def handle(request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        received.append((request.path_qs, headers, orjson.loads(await request.read())))
        wire = next(wire for wire in ANSWERS if request.path.endswith(wire))
        return web.json_response(ANSWERS[wire])

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with TestServer(app) as server:
        base_url = str(server.make_url("/")).rstrip("/") + after_the_host
        provider = configure(base_url, **options).provider
        prepared = provider.prepare(Model("gpt", provider, upstream="my-gpt"), call_input)
        completion = await provider.complete(prepared, 5)
        await provider.close()
    assert completion.usage is not None
    [request] = received
    return request


@pytest.mark.parametrize("after_the_host", ["", "/", "/openai/v1/", "/openai/v1", "/openai"])
@pytest.mark.parametrize(
    ("call_input", "path"),
    [
        (CHAT, "/openai/v1/chat/completions"),
        (EMBEDDINGS, "/openai/v1/embeddings"),
        (RESPONSES, "/openai/v1/responses"),
    ],
)
async def test_a_call_goes_to_the_v1_address_with_the_name_of_the_deployment_in_its_body(
    call_input: CallInput, path: str, after_the_host: str
) -> None:
    address, headers, body = await sent(call_input, after_the_host)
    assert (address, body["model"]) == (path, "my-gpt")
    assert headers["api-key"] == "the-key"
    assert "authorization" not in headers


@pytest.mark.parametrize(
    ("call_input", "path"),
    [
        (CHAT, "/openai/deployments/my-gpt/chat/completions?api-version=2024-10-21"),
        (EMBEDDINGS, "/openai/deployments/my-gpt/embeddings?api-version=2024-10-21"),
    ],
)
async def test_with_an_api_version_a_call_goes_to_the_older_address_of_its_deployment(
    call_input: CallInput, path: str
) -> None:
    address, headers, _ = await sent(call_input, "/openai", api_version="2024-10-21")
    assert (address, headers["api-key"]) == (path, "the-key")


async def test_responses_have_no_address_of_a_deployment() -> None:
    wires = frozenset({Wire.CHAT, Wire.RESPONSES})
    address, _, body = await sent(RESPONSES, "", api_version="2025-04-01-preview", wires=wires)
    assert (address, body["model"]) == ("/openai/responses?api-version=2025-04-01-preview", "my-gpt")


async def test_nothing_is_stored_and_older_versions_without_the_field_do_not_receive_it() -> None:
    for call_input, options, store in (
        (CHAT, {}, False),
        (RESPONSES, {}, False),
        (CHAT, {"api_version": "2024-10-21"}, None),
        (CHAT, {"api_version": "2025-01-01-preview", "knows_store": True}, False),
        (CHAT, {"knows_store": False}, None),
    ):
        _, _, body = await sent(call_input, "", **options)
        assert body.get("store") is store, options


@pytest.mark.parametrize(
    ("deployment", "name"),
    [
        ("gpt-4o", "max_tokens"),
        ("gpt-35-turbo", "max_tokens"),
        ("o3", "max_completion_tokens"),
        ("ours", "max_completion_tokens"),
    ],
)
def test_the_output_limit_has_the_name_that_every_newer_model_accepts(deployment: str, name: str) -> None:
    provider = configure("https://east.openai.azure.com").provider
    body = provider.prepare(Model(deployment, provider), HELLO).body_with_limit(7)
    assert orjson.loads(body)[name] == 7


@pytest.mark.parametrize("name", ["..", "a/b", "a?b", "a%2fb", "x" * 65, "a b"])
def test_a_name_that_no_deployment_can_have_is_refused(name: str) -> None:
    for api_version in (None, "2024-10-21"):
        provider = configure("https://east.openai.azure.com", api_version=api_version).provider
        with pytest.raises(InvalidRequest) as refused:
            provider.prepare(Model("gpt", provider, upstream=name), HELLO)
        assert refused.value.parameter == "model"


def test_no_price_is_guessed_from_the_name_of_a_deployment() -> None:
    assert configure("https://east.openai.azure.com").published_as is None
