"""SIGHUP: the catalog and the log level are read again, and no call notices."""

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from journeys.support.admins import Admin, new_admin
from journeys.support.live_changes import until
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S
from tollkeeper.principal import Role

USAGE = {"prompt_tokens": 15, "completion_tokens": 9}
CATALOG = """
closed = true
default = "one"

[providers.near]
kind = "openai"
base_url = "{upstream}/v1"
api_key_env = "OPENAI_API_KEY"

[models.one]
provider = "near"
weight = {weight}
"""
ADDED = """
[models.two]
provider = "later"

[providers.later]
kind = "openai"
base_url = "{upstream}/v1"
api_key_env = "KEY_OF_LATER"
"""


def events(server: Server, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in server.program.output.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


async def reload(server: Server, event: str = "configuration.reloaded", *, count: int = 1) -> list[dict[str, Any]]:
    """Send SIGHUP, and wait for so many further log lines."""
    before = len(events(server, event))
    os.kill(server.program.pid, signal.SIGHUP)

    async def is_logged() -> bool:
        return len(events(server, event)) >= before + count

    await until(is_logged)
    return events(server, event)[before:]


async def listed(user: ApiUser) -> set[str]:
    return {model["id"] for model in (await user.get("/ai/models")).body["data"]}


@pytest.mark.exhaustive_on_postgres
async def test_a_changed_catalog_comes_into_force_and_a_bad_one_does_not(
    make_server: Callable[..., Server], database_url: str, upstream: Upstream, tmp_path: Path
) -> None:
    catalog, env_file = tmp_path / "catalog.toml", tmp_path / "server" / ".env"
    catalog.write_text(CATALOG.format(upstream=upstream.anthropic_url, weight=1))
    server = make_server(database_url, TOLLKEEPER_CATALOG=str(catalog)).start()
    async with new_user(server) as user, new_admin(server, Role.OPERATOR) as operator:
        in_flight = await _gated_call(user, upstream)
        assert (await user.get("/v1/models/two")).status == 404
        env_file.write_text("KEY_OF_LATER=sk-later\nTOLLKEEPER_MAX_TOKENS=77\n")
        bigger = CATALOG.format(upstream=upstream.anthropic_url, weight=3)
        catalog.write_text(bigger + ADDED.format(upstream=upstream.anthropic_url))
        [line] = await reload(server)
        assert line["models"] == 2

        async def is_named() -> bool:
            named = [line["settings"] for line in events(server, "configuration.needs_restart")]
            return named == [["TOLLKEEPER_MAX_TOKENS"]]

        await until(is_named)
        assert {"one", "two"} <= await listed(user)
        assert {model["id"] for model in (await user.get("/v1/models")).body["data"]} >= {"one", "two"}
        assert (await user.query(scripted(user.marker, usage=USAGE), model="two")).body["provider"] == "later"
        assert (await user.query(scripted(user.marker, usage=USAGE))).body["cost"] == 72
        upstream.open(user.marker)
        assert (await in_flight).body["cost"] == 24
        await _assert_mistakes_change_nothing(server, user, operator, catalog)
        catalog.write_text(bigger)
        await reload(server)
        assert "two" not in await listed(user)
        assert (await user.query("hello", model="two")).status == 404
        assert (await operator.get("/health")).body["problems"] == []
        env_file.write_text("TOLLKEEPER_LOG_LEVEL=error\n")
        os.kill(server.program.pid, signal.SIGHUP)
        await _until_quiet(server, user)
    server.stop()


async def _gated_call(user: ApiUser, upstream: Upstream) -> "asyncio.Task[Any]":
    call = asyncio.create_task(user.query(scripted(user.marker, gate=user.marker, usage=USAGE)))
    async with asyncio.timeout(TEST_DEADLINE_S):
        while not await asyncio.to_thread(upstream.waiting, user.marker):
            await asyncio.sleep(0.02)
    return call


async def _assert_mistakes_change_nothing(server: Server, user: ApiUser, operator: Admin, catalog: Path) -> None:
    """The log names the mistake, and operators see it until a reload succeeds."""
    for text, complaint in (
        ("[models.one", "not valid TOML"),
        ('[models.one]\nprovider = "none"\n', "models.one.provider: there is no such provider"),
        ('[providers.x]\nkind = "openai"\napi_key_env = "NOT_SET"\n', "NOT_SET is not set"),
    ):
        catalog.write_text(text)
        [line] = await reload(server, "configuration.not_reloaded")
        assert complaint in line["reason"]
        assert {"one", "two"} <= await listed(user)
        [problem] = (await operator.get("/health")).body["problems"]
        assert (problem["check"], problem["status"]) == ("configuration", "degraded")
        assert complaint in problem["detail"]


async def _until_quiet(server: Server, user: ApiUser) -> None:
    """At the level `error`, requests write no line."""
    async with asyncio.timeout(TEST_DEADLINE_S):
        while True:
            await asyncio.sleep(0.1)
            before = len(events(server, "http.request"))
            assert (await user.get("/me")).status == 200
            await asyncio.sleep(0.1)
            if len(events(server, "http.request")) == before:
                return


async def test_every_worker_reloads_and_so_does_one_that_replaces_another(
    make_server: Callable[..., Server], sqlite_url: str, upstream: Upstream, tmp_path: Path
) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG.format(upstream=upstream.anthropic_url, weight=1))
    settings = {"TOLLKEEPER_CATALOG": str(catalog), "TOLLKEEPER_WORKERS": "2", "TOLLKEEPER_RATE_LIMIT_AI": "off"}
    server = make_server(sqlite_url, **settings).start()

    async def both_serve() -> bool:
        return len(events(server, "worker.started")) == 2

    await until(both_serve)
    catalog.write_text("")
    lines = await reload(server, "configuration.reloaded", count=2)
    assert sorted(line["worker"] for line in lines) == [1, 2]
    os.kill(events(server, "worker.started")[0]["pid"], signal.SIGKILL)

    async def has_reloaded() -> bool:
        return len(events(server, "configuration.reloaded")) == 3

    await until(has_reloaded)
    server.stop()
