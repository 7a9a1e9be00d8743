"""The list of models with their prices, and the estimate of a call's hold."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI, NotFoundError

from journeys.support.compat_requests import MESSAGES_PATH, RESPONSES_PATH
from journeys.support.server import Server
from journeys.support.users import ApiUser, Reply, http_client, new_user, set_limit
from journeys.upstream.handle import Upstream, scripted
from support.databases import new_sqlite
from support.deadlines import TEST_DEADLINE_S
from tollkeeper.quota.rules.models import Unit

pytestmark = pytest.mark.prove_only_on_postgres

CATALOG = """
default = "fast"
closed = true
[providers.local]
kind = "openai"
base_url = "BASE_URL"
[models.fast]
provider = "local"
model = "org/fast-1"
aliases = ["quick"]
weight = "1.5"
price = { input = 0.15, cached_input = 0.075, output = "0.6" }
context_window = 8192
[models.plain]
provider = "local"
"""


@pytest.fixture(scope="module")
def catalog_server(
    tmp_path_factory: pytest.TempPathFactory, migrated_file: Path, upstream: Upstream
) -> Iterator[Server]:
    """A server with a catalog file."""
    folder = tmp_path_factory.mktemp("catalog_server")
    path = folder / "catalog.toml"
    path.write_text(CATALOG.replace("BASE_URL", upstream.base_url))
    server = Server(new_sqlite(folder, migrated_file), folder, {"TOLLKEEPER_CATALOG": str(path)})
    try:
        yield server.start()
        server.stop()
    finally:
        server.free()


async def estimate(caller: ApiUser, **fields: Any) -> Reply:
    async with caller.http.post("/ai/estimate", json=fields, headers=caller.auth_headers) as response:
        return Reply(response.status, await response.json(content_type=None), response.headers)


async def test_the_models_of_a_catalog_are_listed_with_weight_window_and_price(catalog_server: Server) -> None:
    async with new_user(catalog_server) as caller:
        assert (await caller.get("/ai/models")).body == {
            "data": [
                {
                    "id": "fast",
                    "provider": "local",
                    "weight": 1.5,
                    "context_window": 8192,
                    "price": {"input": "0.150000", "cached_input": "0.075000", "output": "0.600000"},
                    "aliases": ["quick"],
                    "default": True,
                },
                {
                    "id": "plain",
                    "provider": "local",
                    "weight": 1.0,
                    "context_window": None,
                    "price": None,
                    "aliases": [],
                    "default": False,
                },
            ]
        }


async def test_an_alias_is_charged_as_the_model_that_it_stands_for(catalog_server: Server, upstream: Upstream) -> None:
    async with new_user(catalog_server) as caller:
        usage = {"prompt_tokens": 15, "completion_tokens": 9, "total_tokens": 24}
        answer = (await caller.query(scripted(caller.marker, usage=usage), model="quick")).body
        assert (answer["model"], answer["provider"], answer["cost"]) == ("fast", "local", 36)
        assert answer["cost_usd"] == "0.000008"
        assert upstream.requests(caller.marker)[0]["body"]["model"] == "org/fast-1"
        assert (await caller.query("x", model="gpt-4o")).code == "not_found"


async def test_the_published_models_of_a_provider_without_a_catalog_are_listed(server: Server) -> None:
    async with new_user(server) as caller:
        first, *others = (await caller.get("/ai/models")).body["data"]
        assert (first["id"], first["default"], first["context_window"]) == ("gpt-4o-mini", True, 128_000)
        assert first["price"] == {"input": "0.150000", "cached_input": "0.075000", "output": "0.600000"}
        assert {"gpt-4o", "text-embedding-3-small"} <= {one["id"] for one in others}
        assert not any(one["default"] for one in others)


@pytest.mark.parametrize("path", ["/ai/models", "/v1/models", "/v1/models/gpt-4o"])
async def test_the_list_of_models_needs_a_credential(server: Server, path: str) -> None:
    async with http_client(server) as http, http.get(path) as response:
        assert response.status == 401


async def test_openais_sdk_lists_models_and_retrieves_one(catalog_server: Server) -> None:
    async with (
        new_user(catalog_server) as caller,
        AsyncOpenAI(base_url=f"{catalog_server.url}/v1", api_key=caller.token, max_retries=0) as client,
    ):
        listed = [model async for model in client.models.list()]
        assert [(model.id, model.object, model.owned_by) for model in listed] == [
            ("fast", "model", "local"),
            ("plain", "model", "local"),
        ]
        assert (await client.models.retrieve("quick")).id == "fast"
        assert (await client.models.retrieve("local/org/fast-1")).id == "fast"
        for name in ("nothing", "local/nothing"):
            with pytest.raises(NotFoundError):
                await client.models.retrieve(name)


async def test_anthropics_sdk_lists_models_and_retrieves_one(catalog_server: Server) -> None:
    async with (
        new_user(catalog_server) as caller,
        AsyncAnthropic(base_url=catalog_server.url, api_key=caller.token, max_retries=0) as client,
    ):
        page = await client.models.list()
        assert [(model.id, model.type, model.display_name) for model in page.data] == [
            ("fast", "model", "fast"),
            ("plain", "model", "plain"),
        ]
        assert (page.has_more, page.first_id, page.last_id) == (False, "fast", "plain")
        assert (await client.models.retrieve("quick")).id == "fast"


async def test_the_path_of_the_list_with_a_slash_is_not_found(server: Server) -> None:
    async with new_user(server) as caller:
        assert (await caller.get("/v1/models/")).status == 404


async def test_an_estimate_returns_the_hold_and_makes_no_call_or_charge(
    catalog_server: Server, upstream: Upstream
) -> None:
    async with new_user(catalog_server, limit=50_000) as caller:
        reply = await estimate(
            caller, prompt=f"{caller.marker} one two three", system_prompt="Be kind.", max_tokens=100
        )
        estimated = reply.body
        assert (estimated["model"], estimated["provider"], estimated["max_output"], estimated["fits"]) == (
            "fast",
            "local",
            100,
            True,
        )
        assert 0 < estimated["input_tokens"] < estimated["input_bound"]
        assert estimated["hold"] == -(-(estimated["input_bound"] + 100) * 3 // 2)
        assert (estimated["input_tokens"] + 100) * 3 // 2 < estimated["hold_exact"] <= estimated["hold"]
        micro_usd = -(-(estimated["input_bound"] * 150_000 + 100 * 600_000) // 1_000_000)
        assert estimated["hold_usd"] == f"0.{micro_usd:06}"
        assert estimated["quota"]["limit"] == estimated["quota"]["remaining"] == 50_000
        assert await caller.charges() == []
        assert upstream.requests(caller.marker) == []
        unpriced = (await estimate(caller, prompt="x", model="plain")).body
        assert (unpriced["hold_usd"], unpriced["max_output"]) == (None, 1_024)


async def test_an_estimate_accepts_the_bodies_of_query_and_chat(server: Server) -> None:
    async with new_user(server) as caller:
        messages = [{"role": "user", "content": "one two"}]
        same = [
            await estimate(caller, prompt="one two"),
            await estimate(caller, message="one two"),
            await estimate(caller, messages=messages, stream=True),
        ]
        assert [reply.status for reply in same] == [200, 200, 200]
        assert same[0].body == same[1].body == same[2].body
        allocated = await estimate(caller, prompt="one two", context_allocation=200)
        assert allocated.body["hold"] == allocated.body["hold_exact"] <= 200


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "invalid_request"),
        ({"prompt": "x", "message": "y"}, "invalid_request"),
        ({"prompt": "x", "messages": [{"role": "user", "content": "y"}]}, "invalid_request"),
        ({"prompt": ""}, "invalid_request"),
        ({"prompt": "x", "quota": 5}, "invalid_request"),
        ({"prompt": "x", "max_tokens": True}, "invalid_request"),
        ({"prompt": "x", "context_allocation": 1}, "invalid_request"),
        ({"prompt": "x", "evaluate": True}, "unsupported_parameter"),
        ({"prompt": "x", "model": "nobody/x y"}, "invalid_request"),
    ],
)
async def test_an_estimate_refuses_what_the_call_would_refuse(
    server: Server, fields: dict[str, Any], code: str
) -> None:
    async with new_user(server) as caller:
        assert (await estimate(caller, **fields)).code == code


async def test_an_estimate_of_an_unknown_model_is_not_found(catalog_server: Server) -> None:
    async with new_user(catalog_server) as caller:
        assert (await estimate(caller, prompt="x", model="gpt-4o")).code == "not_found"


async def test_an_estimate_needs_a_credential(server: Server) -> None:
    async with http_client(server) as http, http.post("/ai/estimate", json={"prompt": "x"}) as response:
        assert response.status == 401


@pytest.mark.parametrize("of_tenant", [False, True])
@pytest.mark.parametrize("max_tokens", [None, 200])
async def test_a_call_is_admitted_exactly_when_its_estimate_fits(
    server: Server, of_tenant: bool, max_tokens: int | None
) -> None:
    """At the smallest limit for the exact hold and at one below, of the user or of the tenant."""
    query: dict[str, Any] = {"prompt": scripted("x" * 100)} | ({"max_tokens": max_tokens} if max_tokens else {})
    async with new_user(server) as caller:
        estimated = (await estimate(caller, **query)).body
        assert estimated["hold_exact"] < estimated["hold"]
        smallest = estimated["hold_exact"] - (0 if max_tokens else estimated["max_output"] - 16)
        for limit, fits in ((smallest - 1, False), (smallest, True)):
            await set_limit(server, caller.principal, limit, of_tenant=of_tenant)
            assert (await estimate(caller, **query)).body["fits"] is fits
            assert (await caller.query(**query)).status == (200 if fits else 429)


async def test_the_holds_of_calls_in_flight_count_against_the_estimate(server: Server, upstream: Upstream) -> None:
    async with new_user(server) as caller:
        prompt = scripted(caller.marker, gate=caller.marker)
        hold = (await estimate(caller, prompt=prompt, max_tokens=50)).body["hold"]
        await set_limit(server, caller.principal, hold * 3 // 2)
        with upstream.gate(caller.marker):
            call = asyncio.create_task(caller.query(prompt, max_tokens=50))
            async with asyncio.timeout(TEST_DEADLINE_S):
                while upstream.waiting(caller.marker) < 1:
                    await asyncio.sleep(0.02)
            during = (await estimate(caller, prompt=prompt, max_tokens=hold // 2)).body
            assert (during["fits"], during["quota"]["reserved"]) == (False, hold)
        assert (await call).status == 200
        assert (await estimate(caller, prompt=prompt, max_tokens=50)).body["fits"]


async def test_without_a_quota_nothing_fits(server: Server) -> None:
    async with new_user(server, limit=None, tenant_limit=100_000) as caller:
        assert (await estimate(caller, prompt="x")).body["fits"] is False
        assert (await caller.query("x")).code == "quota_exceeded"


@pytest.mark.parametrize("tenant_limit", [None, 100_000])
@pytest.mark.parametrize("money", [False, True])
async def test_without_a_user_token_quota_the_remainder_is_zero_whatever_the_tenant_has(
    server: Server, tenant_limit: int | None, money: bool
) -> None:
    """The quota, the estimate and the refusal agree; the tenant's quotas are listed all the same."""
    async with new_user(server, limit=None, tenant_limit=tenant_limit) as caller:
        if money:
            await set_limit(server, caller.principal, 1_000_000, unit=Unit.MICRO_USD)
        nothing = {"limit": 0, "used": 0, "reserved": 0, "remaining": 0, "resets_at": None}
        balance = await caller.quota()
        listed = {one["name"]: one["remaining"] for one in balance.pop("quotas")}
        assert balance == {"name": "user"} | nothing
        assert listed == ({"user-total-usd": 1_000_000} if money else {}) | (
            {"tenant-total": tenant_limit} if tenant_limit else {}
        )
        assert (await estimate(caller, prompt="x")).body["quota"] == nothing
        refused = (await caller.query("x")).body
        assert (refused["quota"], refused["limit"], refused["resets_at"]) == ("user", 0, None)


async def test_a_money_quota_has_no_room_for_a_model_without_a_price(catalog_server: Server) -> None:
    async with new_user(catalog_server) as caller:
        await set_limit(catalog_server, caller.principal, 1_000_000, unit=Unit.MICRO_USD)
        assert (await estimate(caller, prompt="x", model="fast")).body["fits"] is True
        assert (await estimate(caller, prompt="x", model="plain")).body["fits"] is False
        await set_limit(catalog_server, caller.principal, 10, unit=Unit.MICRO_USD)
        assert (await estimate(caller, prompt="x", model="fast", max_tokens=100)).body["fits"] is False


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (MESSAGES_PATH, {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}),
        (RESPONSES_PATH, {"input": "hi"}),
        ("/v1/completions", {"prompt": "hi"}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_answer_to_a_request_without_a_model_names_the_default_model(
    catalog_server: Server, path: str, fields: dict[str, Any], stream: bool
) -> None:
    async with (
        new_user(catalog_server) as caller,
        caller.http.post(path, json=fields | {"stream": stream}, headers=caller.auth_headers) as response,
    ):
        assert response.status == 200
        named = set(re.findall(r'"model": ?"([^"]*)"', await response.text()))
    assert named == {"fast"}
