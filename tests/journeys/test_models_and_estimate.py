"""What can be asked, what it costs, and what a call would hold, told without making one."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI, NotFoundError

from databases import new_sqlite
from journeys.support.server import Server
from journeys.support.users import Person, Reply, person, set_limit, visitor
from journeys.upstream.handle import Upstream, scripted
from patience import PATIENCE_S
from tollkeeper.quota.rules.models import Unit

pytestmark = pytest.mark.exhaustive_on_postgres

CATALOG = """
default = "fast"
closed = true
[providers.house]
kind = "openai"
base_url = "BASE_URL"
[models.fast]
provider = "house"
model = "org/fast-1"
aliases = ["quick"]
weight = "1.5"
price = { input = 0.15, cached_input = 0.075, output = "0.6" }
context_window = 8192
[models.plain]
provider = "house"
"""


@pytest.fixture(scope="module")
def catalogued(tmp_path_factory: pytest.TempPathFactory, migrated_file: Path, upstream: Upstream) -> Iterator[Server]:
    """A server whose operator has written a catalog."""
    folder = tmp_path_factory.mktemp("catalogued")
    path = folder / "catalog.toml"
    path.write_text(CATALOG.replace("BASE_URL", upstream.base_url))
    server = Server(new_sqlite(folder, migrated_file), folder, {"TOLLKEEPER_CATALOG": str(path)})
    try:
        yield server.start()
        server.stop()
    finally:
        server.free()


async def estimate(caller: Person, **fields: Any) -> Reply:
    async with caller.http.post("/ai/estimate", json=fields, headers=caller.bearer) as response:
        return Reply(response.status, await response.json(content_type=None), response.headers)


async def test_the_models_of_a_catalog_are_listed_with_weight_window_and_price(catalogued: Server) -> None:
    async with person(catalogued) as caller:
        assert (await caller.get("/ai/models")).body == {
            "data": [
                {
                    "id": "fast",
                    "provider": "house",
                    "weight": 1.5,
                    "context_window": 8192,
                    "price": {"input": "0.150000", "cached_input": "0.075000", "output": "0.600000"},
                    "aliases": ["quick"],
                    "default": True,
                },
                {
                    "id": "plain",
                    "provider": "house",
                    "weight": 1.0,
                    "context_window": None,
                    "price": None,
                    "aliases": [],
                    "default": False,
                },
            ]
        }


async def test_an_alias_is_charged_as_the_model_that_it_stands_for(catalogued: Server, upstream: Upstream) -> None:
    async with person(catalogued) as caller:
        usage = {"prompt_tokens": 15, "completion_tokens": 9, "total_tokens": 24}
        answer = (await caller.ask(scripted(caller.marker, usage=usage), model="quick")).body
        assert (answer["model"], answer["provider"], answer["cost"]) == ("fast", "house", 36)
        assert answer["cost_usd"] == "0.000008"
        assert upstream.seen(caller.marker)[0]["body"]["model"] == "org/fast-1"
        assert (await caller.ask("x", model="gpt-4o")).code == "not_found"


async def test_a_provider_of_the_environment_has_its_published_models_listed(server: Server) -> None:
    async with person(server) as caller:
        first, *others = (await caller.get("/ai/models")).body["data"]
        assert (first["id"], first["default"], first["context_window"]) == ("gpt-4o-mini", True, 128_000)
        assert first["price"] == {"input": "0.150000", "cached_input": "0.075000", "output": "0.600000"}
        assert {"gpt-4o", "text-embedding-3-small"} <= {one["id"] for one in others}
        assert not any(one["default"] for one in others)


@pytest.mark.parametrize("path", ["/ai/models", "/v1/models", "/v1/models/gpt-4o"])
async def test_the_models_are_told_to_those_who_are_signed_in(server: Server, path: str) -> None:
    async with visitor(server) as stranger, stranger.get(path) as response:
        assert response.status == 401


async def test_the_sdk_of_openai_lists_models_and_finds_one(catalogued: Server) -> None:
    async with (
        person(catalogued) as caller,
        AsyncOpenAI(base_url=f"{catalogued.url}/v1", api_key=caller.token, max_retries=0) as client,
    ):
        listed = [model async for model in client.models.list()]
        assert [(model.id, model.object, model.owned_by) for model in listed] == [
            ("fast", "model", "house"),
            ("plain", "model", "house"),
        ]
        assert (await client.models.retrieve("quick")).id == "fast"
        assert (await client.models.retrieve("house/org/fast-1")).id == "fast"
        for name in ("nothing", "house/nothing"):
            with pytest.raises(NotFoundError):
                await client.models.retrieve(name)


async def test_the_sdk_of_anthropic_lists_models_and_finds_one(catalogued: Server) -> None:
    async with (
        person(catalogued) as caller,
        AsyncAnthropic(base_url=catalogued.url, api_key=caller.token, max_retries=0) as client,
    ):
        page = await client.models.list()
        assert [(model.id, model.type, model.display_name) for model in page.data] == [
            ("fast", "model", "fast"),
            ("plain", "model", "plain"),
        ]
        assert (page.has_more, page.first_id, page.last_id) == (False, "fast", "plain")
        assert (await client.models.retrieve("quick")).id == "fast"


async def test_the_path_of_the_list_with_a_slash_is_no_model(server: Server) -> None:
    async with person(server) as caller:
        assert (await caller.get("/v1/models/")).status == 404


async def test_an_estimate_tells_the_hold_and_leaves_no_trace(catalogued: Server, upstream: Upstream) -> None:
    async with person(catalogued, limit=50_000) as caller:
        reply = await estimate(
            caller, prompt=f"{caller.marker} one two three", system_prompt="Be kind.", max_tokens=100
        )
        told = reply.body
        assert (told["model"], told["provider"], told["max_output"], told["fits"]) == ("fast", "house", 100, True)
        assert 0 < told["input_tokens"] < told["input_bound"]
        assert told["hold"] == -(-(told["input_bound"] + 100) * 3 // 2)
        assert (told["input_tokens"] + 100) * 3 // 2 < told["hold_exact"] <= told["hold"]
        micro_usd = -(-(told["input_bound"] * 150_000 + 100 * 600_000) // 1_000_000)
        assert told["hold_usd"] == f"0.{micro_usd:06}"
        assert told["quota"]["limit"] == told["quota"]["remaining"] == 50_000
        assert await caller.charges() == []
        assert upstream.seen(caller.marker) == []
        unpriced = (await estimate(caller, prompt="x", model="plain")).body
        assert (unpriced["hold_usd"], unpriced["max_output"]) == (None, 1_024)


async def test_an_estimate_takes_what_query_and_chat_take(server: Server) -> None:
    async with person(server) as caller:
        turns = [{"role": "user", "content": "one two"}]
        same = [
            await estimate(caller, prompt="one two"),
            await estimate(caller, message="one two"),
            await estimate(caller, messages=turns, stream=True),
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
async def test_an_estimate_refuses_what_the_call_would(server: Server, fields: dict[str, Any], code: str) -> None:
    async with person(server) as caller:
        assert (await estimate(caller, **fields)).code == code


async def test_an_estimate_of_a_model_that_is_not_there_is_not_found(catalogued: Server) -> None:
    async with person(catalogued) as caller:
        assert (await estimate(caller, prompt="x", model="gpt-4o")).code == "not_found"


async def test_an_estimate_is_told_to_those_who_are_signed_in(server: Server) -> None:
    async with visitor(server) as stranger, stranger.post("/ai/estimate", json={"prompt": "x"}) as response:
        assert response.status == 401


@pytest.mark.parametrize("of_tenant", [False, True])
@pytest.mark.parametrize("max_tokens", [None, 200])
async def test_a_call_fits_exactly_when_the_estimate_says_so(
    server: Server, of_tenant: bool, max_tokens: int | None
) -> None:
    """At the smallest limit that the exact hold needs, and one below; the user's or the tenant's."""
    asked: dict[str, Any] = {"prompt": scripted("x" * 100)} | ({"max_tokens": max_tokens} if max_tokens else {})
    async with person(server) as caller:
        told = (await estimate(caller, **asked)).body
        assert told["hold_exact"] < told["hold"]
        smallest = told["hold_exact"] - (0 if max_tokens else told["max_output"] - 16)
        for limit, fits in ((smallest - 1, False), (smallest, True)):
            await set_limit(server, caller.principal, limit, of_tenant=of_tenant)
            assert (await estimate(caller, **asked)).body["fits"] is fits
            assert (await caller.ask(**asked)).status == (200 if fits else 429)


async def test_what_calls_in_flight_hold_counts_against_the_estimate(server: Server, upstream: Upstream) -> None:
    async with person(server) as caller:
        prompt = scripted(caller.marker, gate=caller.marker)
        hold = (await estimate(caller, prompt=prompt, max_tokens=50)).body["hold"]
        await set_limit(server, caller.principal, hold * 3 // 2)
        with upstream.gate(caller.marker):
            call = asyncio.create_task(caller.ask(prompt, max_tokens=50))
            async with asyncio.timeout(PATIENCE_S):
                while upstream.waiting(caller.marker) < 1:
                    await asyncio.sleep(0.02)
            during = (await estimate(caller, prompt=prompt, max_tokens=hold // 2)).body
            assert (during["fits"], during["quota"]["reserved"]) == (False, hold)
        assert (await call).status == 200
        assert (await estimate(caller, prompt=prompt, max_tokens=50)).body["fits"]


async def test_without_a_quota_nothing_fits(server: Server) -> None:
    async with person(server, limit=None, tenant_limit=100_000) as caller:
        assert (await estimate(caller, prompt="x")).body["fits"] is False
        assert (await caller.ask("x")).code == "quota_exceeded"


@pytest.mark.parametrize("tenant_limit", [None, 100_000])
@pytest.mark.parametrize("money", [False, True])
async def test_without_a_token_quota_of_ones_own_nothing_is_left_whatever_the_tenant_has(
    server: Server, tenant_limit: int | None, money: bool
) -> None:
    """The quota, the estimate and the refusal say the same; what the tenant has is listed all the same."""
    async with person(server, limit=None, tenant_limit=tenant_limit) as caller:
        if money:
            await set_limit(server, caller.principal, 1_000_000, unit=Unit.MICRO_USD)
        nothing = {"limit": 0, "used": 0, "reserved": 0, "remaining": 0, "resets_at": None}
        told = await caller.quota()
        listed = {one["name"]: one["remaining"] for one in told.pop("quotas")}
        assert told == {"name": "user"} | nothing
        assert listed == ({"user-total-usd": 1_000_000} if money else {}) | (
            {"tenant-total": tenant_limit} if tenant_limit else {}
        )
        assert (await estimate(caller, prompt="x")).body["quota"] == nothing
        refused = (await caller.ask("x")).body
        assert (refused["quota"], refused["limit"], refused["resets_at"]) == ("user", 0, None)


async def test_a_money_quota_has_no_room_for_a_model_without_a_price(catalogued: Server) -> None:
    async with person(catalogued) as caller:
        await set_limit(catalogued, caller.principal, 1_000_000, unit=Unit.MICRO_USD)
        assert (await estimate(caller, prompt="x", model="fast")).body["fits"] is True
        assert (await estimate(caller, prompt="x", model="plain")).body["fits"] is False
        await set_limit(catalogued, caller.principal, 10, unit=Unit.MICRO_USD)
        assert (await estimate(caller, prompt="x", model="fast", max_tokens=100)).body["fits"] is False
