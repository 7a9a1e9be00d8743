"""Models and providers that an operator switches off: refused on every endpoint, not listed, skipped by fallbacks."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from journeys.support.admins import Admin, new_admin
from journeys.support.endpoints import ALL_ENDPOINTS, call
from journeys.support.live_changes import until
from journeys.support.many_users import many_users
from journeys.support.server import Server
from journeys.support.users import AMPLE_LIMIT, ApiUser, new_user
from journeys.upstream.handle import Upstream
from tollkeeper.principal import Role

pytestmark = pytest.mark.prove_only_on_postgres(
    but=("test_a_model_that_is_off_is_not_listed_and_not_the_default_and_its_alias_is_refused",)
)

CATALOG = """
closed = true
default = "first"

[providers.one]
kind = "openai"
base_url = "{upstream}/v1"
api_key_env = "OPENAI_API_KEY"

[providers.two]
kind = "openai"
base_url = "{upstream}/v1"
api_key_env = "OPENAI_API_KEY"

[models.first]
provider = "one"
aliases = ["nickname"]
fallbacks = ["second", "third"]

[models.second]
provider = "one"

[models.third]
provider = "two"

[models.spread]
deployments = [{{provider = "one"}}, {{provider = "two"}}]

[models.broken]
provider = "one"
model = "broken"
fallbacks = ["second", "third"]
"""


@pytest.fixture
def switch_server(make_server: Callable[..., Server], database_url: str, upstream: Upstream, tmp_path: Path) -> Server:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG.format(upstream=upstream.anthropic_url))
    settings = {"TOLLKEEPER_CATALOG": str(catalog), "TOLLKEEPER_BREAKER_FAILURES": "0"}
    return make_server(database_url, **settings).start()


@asynccontextmanager
async def people(server: Server) -> AsyncIterator[tuple[Admin, ApiUser]]:
    async with new_admin(server, Role.OPERATOR) as operator, new_user(server) as user:
        yield operator, user


async def switch_off(operator: Admin, path: str) -> None:
    reply = await operator.post(f"/admin/{path}/off", {"reason": "a test"})
    assert (reply.status, reply.body["on"]) == (200, False), reply


async def switch_on(operator: Admin, path: str) -> None:
    assert (await operator.send("POST", f"/admin/{path}/on")).status == 200


async def listed(user: ApiUser) -> list[str]:
    return [model["id"] for model in (await user.get("/ai/models")).body["data"]]


async def test_a_model_that_is_off_is_not_listed_and_not_the_default_and_its_alias_is_refused(
    switch_server: Server,
) -> None:
    async with people(switch_server) as (operator, user):
        assert (await user.query("hello")).body["model"] == "first"
        await switch_off(operator, "models/nickname")

        async def is_gone() -> bool:
            return "first" not in await listed(user)

        await until(is_gone)
        assert (await user.get("/v1/models")).body["data"][0]["id"] == "second"
        for name in ("first", "nickname"):
            refused = await user.query("hello", model=name)
            assert (refused.status, refused.code) == (404, "model_switched_off")
            assert "switched this model off" in refused.body["detail"]
            assert "a test" not in refused.body["detail"]
            assert (await user.get(f"/v1/models/{name}")).status == 404
        assert (await user.query("hello")).body["model"] == "second"
        models = {one["id"]: one for one in (await operator.get("/admin/models?limit=100")).body["data"]}
        assert (models["first"]["on"], models["first"]["switched_off"]["reason"]) == (False, "a test")
        assert (models["second"]["on"], models["second"]["switched_off"]) == (True, None)
        await switch_on(operator, "models/first")

        async def is_back() -> bool:
            return bool((await user.query("hello")).body["model"] == "first")

        await until(is_back)
        assert len(await user.charges()) >= 3
        assert {charge["state"] for charge in await user.charges()} == {"settled"}
        acts = (await operator.get("/admin/audit?limit=100")).body["data"]
        assert [(act["action"], act["target"], act["tenant_id"]) for act in acts if "model" in act["action"]] == [
            ("model.on", "model:first", None),
            ("model.off", "model:first", None),
        ]


async def test_fallbacks_and_deployments_skip_what_is_off(switch_server: Server, upstream: Upstream) -> None:
    async with people(switch_server) as (operator, user):
        await switch_off(operator, "models/second")
        await switch_off(operator, "models/second")

        async def is_off() -> bool:
            return "second" not in await listed(user)

        await until(is_off)
        prompt = f'{user.marker} <<{{"by_model": {{"broken": {{"status": 503}}}}}}>>'
        assert (await user.query(prompt, model="broken")).body["model"] == "third"
        await switch_off(operator, "providers/one")

        async def only_two() -> bool:
            return sorted(await listed(user)) == ["spread", "third"]

        await until(only_two)
        assert {(await user.query("hello", model="spread")).body["provider"] for _ in range(8)} == {"two"}
        assert (await user.query("hello")).body["model"] == "third"
        refused = await user.query("hello", model="first")
        assert (refused.code, "every provider of this model" in refused.body["detail"]) == ("model_switched_off", True)
        await switch_off(operator, "providers/two")

        async def none() -> bool:
            return await listed(user) == []

        await until(none)
        assert (await user.query("hello")).code == "model_switched_off"
        assert (await user.get("/v1/models")).body["data"] == []
        assert (await user.get("/health")).status == 200
        providers = (await operator.get("/admin/providers")).body["data"]
        assert [(one["name"], one["on"], one["tenant_keys"]) for one in providers] == [
            ("one", False, True),
            ("openai", True, True),
            ("two", False, True),
        ]


async def test_a_model_that_is_off_is_refused_on_every_endpoint_and_nothing_is_reserved(
    all_wires_server: Server, upstream: Upstream
) -> None:
    async with (
        new_admin(all_wires_server, Role.OPERATOR) as operator,
        many_users(all_wires_server, 1, AMPLE_LIMIT) as (user,),
    ):
        await switch_off(operator, "models/silent")
        try:

            async def is_off() -> bool:
                return "silent" not in await listed(user)

            await until(is_off)
            for endpoint in ALL_ENDPOINTS:
                refused = await call(user, endpoint, user.marker, "silent")
                expected = "model_switched_off" if endpoint.path.startswith("/ai/") else refused.code
                assert (refused.status, refused.code) in ((404, expected), (200, expected)), (endpoint, refused.raw)
                assert b"switched this model off" in refused.raw, (endpoint, refused.raw)
            assert await user.charges() == []
            assert upstream.requests(user.marker) == []
        finally:
            await switch_on(operator, "models/silent")

        async def is_on() -> bool:
            return "silent" in await listed(user)

        await until(is_on)


async def test_only_operators_switch_and_only_what_exists(server: Server) -> None:
    async with new_admin(server, Role.OPERATOR) as operator, new_admin(server) as admin:
        for path in ("models/gpt-4o-mini", "providers/openai"):
            for document in ({"reason": "a test"}, None):
                verb = "off" if document else "on"
                assert (await admin.send("POST", f"/admin/{path}/{verb}", document)).code == "forbidden"
        assert (await admin.get("/admin/models")).code == "forbidden"
        assert (await operator.post("/admin/providers/none/off", {"reason": "a test"})).code == "not_found"
        assert (await operator.send("POST", "/admin/providers/none/on")).code == "not_found"
        assert (await operator.post("/admin/providers/openai/off", {"reason": ""})).code == "invalid_request"
        assert (await operator.post("/admin/providers/openai/off", {})).code == "invalid_request"


async def test_pages_of_models_have_each_model_once(server: Server) -> None:
    async with new_admin(server, Role.OPERATOR) as operator:
        found: list[str] = []
        query = "limit=50"
        while query:
            page = (await operator.get(f"/admin/models?{query}")).body
            found += [model["id"] for model in page["data"]]
            query = f"limit=50&cursor={page['next_cursor']}" if page["next_cursor"] is not None else ""
        assert found == sorted(set(found))
        assert "gpt-4o-mini" in found
