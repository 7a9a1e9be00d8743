"""What the catalog decides on a call: extra parameters, several deployments, Azure's addresses, and `store`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from journeys.support.client_formats import SECRET
from journeys.support.compat_requests import (
    CHAT_PATH,
    MESSAGES_PATH,
    RESPONSES_PATH,
    assert_refused,
    events,
    post,
    user_messages,
)
from journeys.support.ledger_checks import assert_ledger_is_consistent
from journeys.support.server import Server
from journeys.support.users import ApiUser, Reply, new_user
from journeys.upstream.handle import Upstream, scripted
from support.databases import new_sqlite

pytestmark = pytest.mark.prove_only_on_postgres

EMBEDDINGS_PATH = "/v1/embeddings"
CATALOG = """
closed = true
default = "local"

[providers.local]
kind = "openai"
base_url = "UPSTREAM/v1"
wires = ["chat/completions", "responses", "embeddings"]
extra_parameters = { top_k = "pass", input_type = "pass", chat_template_kwargs = "pass", enable_thinking = "drop" }

[providers.storing]
kind = "openai"
base_url = "UPSTREAM/v1"
knows_store = true
knows_stream_options = false

[providers.claude]
kind = "anthropic"
base_url = "UPSTREAM"
extra_parameters = { top_k_of_chat = "pass", enable_thinking = "drop" }

[providers.east]
kind = "azure"
base_url = "UPSTREAM/openai/v1/"
api_key_env = "OPENAI_API_KEY"

[providers.west]
kind = "azure"
base_url = "UPSTREAM"
api_key_env = "OPENAI_API_KEY"
api_version = "2024-10-21"

[models.local]
provider = "local"

[models.strict]
provider = "local"
extra_parameters = { top_k = "refuse" }
fallbacks = ["local"]

[models.storing]
provider = "storing"

[models.claude]
provider = "claude"

[models.spread]
deployments = [{ provider = "east", model = "gpt-east" }, { provider = "west", model = "gpt-west" }]
price = { input = 1, output = 1 }
"""
CALLS = 50
"""So many that each of two deployments is chosen at least once."""
EXTRA = {"top_k": 40, "chat_template_kwargs": {"enable_thinking": False}, "enable_thinking": False}


@pytest.fixture(scope="module")
def catalog_server(
    tmp_path_factory: pytest.TempPathFactory, migrated_file: Path, upstream: Upstream
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("catalog_settings_server")
    (folder / "catalog.toml").write_text(CATALOG.replace("UPSTREAM", upstream.anthropic_url))
    server = Server(new_sqlite(folder, migrated_file), folder, {"TOLLKEEPER_CATALOG": str(folder / "catalog.toml")})
    try:
        yield server.start()
        server.stop()
        server.assert_no_traceback()
    finally:
        server.free()


def content(path: str, prompt: str) -> dict[str, Any]:
    if path == MESSAGES_PATH:
        return {**user_messages(prompt), "max_tokens": 50}
    return user_messages(prompt) if path == CHAT_PATH else {"input": prompt}


async def send(caller: ApiUser, path: str, *, streaming: bool, **fields: Any) -> None:
    document = {**content(path, caller.marker), **fields}
    if streaming:
        assert await events(caller, path, **document)
    else:
        reply = await post(caller, path, **document)
        assert reply.status == 200, reply


def the_body(upstream: Upstream, caller: ApiUser) -> dict[str, Any]:
    [request] = upstream.requests(caller.marker)
    body: dict[str, Any] = request["body"]
    return body


@pytest.mark.parametrize(
    ("path", "streaming"), [(CHAT_PATH, False), (CHAT_PATH, True), (RESPONSES_PATH, False), (RESPONSES_PATH, True)]
)
async def test_extra_parameters_reach_the_provider_as_the_catalog_says(
    catalog_server: Server, upstream: Upstream, path: str, streaming: bool
) -> None:
    async with new_user(catalog_server) as caller:
        await send(caller, path, streaming=streaming, model="local", **EXTRA)
        body = the_body(upstream, caller)
        assert (body["top_k"], body["chat_template_kwargs"]) == (40, {"enable_thinking": False})
        assert "enable_thinking" not in body
        [charge] = await caller.charges()
        assert charge["granted_output"] == body.get("max_tokens", body.get("max_output_tokens"))


async def test_extra_parameters_of_embeddings_reach_the_provider(catalog_server: Server, upstream: Upstream) -> None:
    async with new_user(catalog_server) as caller:
        await send(caller, EMBEDDINGS_PATH, streaming=False, model="local", input_type="query")
        assert the_body(upstream, caller)["input_type"] == "query"
        refused = await post(caller, EMBEDDINGS_PATH, model="local", input="a", truncate="END")
        assert_refused(refused, "truncate")


@pytest.mark.parametrize("path", [CHAT_PATH, RESPONSES_PATH, MESSAGES_PATH])
async def test_a_parameter_that_is_not_listed_is_refused_before_anything_is_held(
    catalog_server: Server, upstream: Upstream, path: str
) -> None:
    async with new_user(catalog_server) as caller:
        models = ["claude"] if path == MESSAGES_PATH else ["local", "claude"]
        for model in models:
            for streaming in (False, True):
                document = {**content(path, caller.marker), "model": model, "stream": streaming, "min_p": 0.1}
                reply = await post(caller, path, **document)
                assert (reply.status, reply.headers["X-Error-Code"]) == (400, "unsupported_parameter")
                message = reply.body["error"]["message"]
                assert message == "This provider does not take min_p. Leave it out, or ask the operator."
        assert (await caller.charges(), upstream.requests(caller.marker)) == ([], [])


async def test_a_model_can_refuse_what_its_provider_takes(catalog_server: Server) -> None:
    async with new_user(catalog_server) as caller:
        assert_refused(await post(caller, CHAT_PATH, model="strict", **user_messages("hi"), top_k=40), "top_k")


async def test_a_translated_call_drops_what_is_dropped_and_refuses_what_is_passed_on(
    catalog_server: Server, upstream: Upstream
) -> None:
    async with new_user(catalog_server) as caller:
        reply = await post(caller, CHAT_PATH, model="claude", **user_messages(caller.marker), enable_thinking=True)
        assert (reply.status, reply.headers["X-Tollkeeper-Dropped"]) == (200, "enable_thinking")
        assert "enable_thinking" not in the_body(upstream, caller)
        for model, path, name in (("claude", CHAT_PATH, "top_k_of_chat"), ("local", MESSAGES_PATH, "input_type")):
            reply = await post(caller, path, **content(path, "hi"), model=model, **{name: "x"})
            assert (reply.status, reply.headers["X-Error-Code"]) == (400, "unsupported_parameter")
            assert name in reply.body["error"]["message"]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_an_output_limit_of_minus_one_counts_as_not_given(
    catalog_server: Server, upstream: Upstream, name: str
) -> None:
    async with new_user(catalog_server) as caller:
        await send(caller, CHAT_PATH, streaming=False, model="local", **{name: -1})
        assert the_body(upstream, caller)["max_tokens"] == 1024
        for wrong in (-2, 0, -1.5, "-1"):
            reply = await post(caller, CHAT_PATH, model="local", **user_messages("hi"), **{name: wrong})
            assert reply.status == 400
    async with new_user(catalog_server) as caller:
        await send(caller, RESPONSES_PATH, streaming=False, model="local", max_output_tokens=-1)
        assert the_body(upstream, caller)["max_output_tokens"] == 16_384


@pytest.mark.parametrize("path", [CHAT_PATH, MESSAGES_PATH])
async def test_store_is_sent_only_to_a_server_that_knows_it(
    catalog_server: Server, upstream: Upstream, path: str
) -> None:
    for model, expected in (("local", "absent"), ("storing", False)):
        for streaming in (False, True):
            async with new_user(catalog_server) as caller:
                await send(caller, path, streaming=streaming, model=model)
                assert the_body(upstream, caller).get("store", "absent") == expected


async def test_a_stream_is_charged_also_where_the_server_does_not_know_stream_options(
    catalog_server: Server, upstream: Upstream
) -> None:
    async with new_user(catalog_server) as caller:
        await send(caller, CHAT_PATH, streaming=True, model="storing", stream_options={"include_usage": True})
        assert "stream_options" not in the_body(upstream, caller)
        [charge] = await caller.charges()
        assert charge["state"] == "settled"
        assert charge["cost"] > 0


async def spread(caller: ApiUser, **by_model: Any) -> Reply:
    prompt = scripted(caller.marker, answer="one two", usage={"input": 9, "output": 2}, by_model=by_model)
    return await post(caller, CHAT_PATH, model="spread", **user_messages(prompt))


async def test_a_call_that_one_deployment_refuses_is_answered_by_the_other_and_the_charges_name_both(
    catalog_server: Server, upstream: Upstream
) -> None:
    limited = {"status": 429, "headers": {"Retry-After": "120"}}
    async with new_user(catalog_server) as caller:
        replies = [await spread(caller, **{"gpt-east": limited}) for _ in range(CALLS)]
        assert {reply.status for reply in replies} == {200}
        charges = await caller.charges()
        failed = [charge for charge in charges if charge["provider"] == "east"]
        assert [(one["model"], one["state"], one["cost"], one["error"]) for one in failed] == [
            ("spread", "released", 0, "provider_rate_limited")
        ], "it is called once, and then spared"
        answered = [(one["model"], one["state"], one["cost"]) for one in charges if one["provider"] == "west"]
        assert answered == [("spread", "settled", 11)] * CALLS
        requests = upstream.requests(caller.marker)
        assert {request["path"] for request in requests} == {
            "/openai/v1/chat/completions",
            "/openai/deployments/gpt-west/chat/completions?api-version=2024-10-21",
        }
        for request in requests:
            assert request["headers"]["api-key"] == "sk-of-the-operator"
            assert "authorization" not in request["headers"]
    await assert_ledger_is_consistent(catalog_server.database_url)


async def test_a_call_that_every_deployment_refuses_fails_with_nothing_charged(
    catalog_server: Server, upstream: Upstream
) -> None:
    down = {"status": 500}
    async with new_user(catalog_server) as caller:
        reply = await spread(caller, **{"gpt-east": down, "gpt-west": down})
        assert (reply.status, reply.headers["X-Error-Code"]) == (502, "provider_error")
        assert SECRET not in str(reply.body)
        charges = await caller.charges()
        assert {(charge["state"], charge["cost"]) for charge in charges} == {("released", 0)}
        assert len({charge["provider"] for charge in charges}) == len(charges)
