"""The circuit breaker: a provider that fails gets no requests, and no call waits for it, until it answers again."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from journeys.support.endpoints import ALL_ENDPOINTS, WEBSOCKET, ClientCall, Endpoint, call
from journeys.support.processes import ReservedPort
from journeys.support.server import Server
from journeys.support.tcp_proxy import tcp_proxy
from journeys.support.users import ApiUser, Reply, new_user
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S

FAILURES = 4
FOR_EVER_S, A_MOMENT_S = "600", "1"
"""How long the breaker stays open, in seconds; the first probe passes after a tenth of it."""
CALLERS = 20
CATALOG = """
closed = true
default = "one"

[providers.near]
kind = "openai"
base_url = "{upstream}/v1"
api_key_env = "OPENAI_API_KEY"

[providers.far]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
api_key_env = "OPENAI_API_KEY"

[models.one]
provider = "near"

[models.other]
provider = "near"

[models.far-one]
provider = "far"

[models.far-two]
provider = "far"

[models.far-three]
provider = "far"

[models.followed]
provider = "far"
fallbacks = ["other"]
"""


@pytest.fixture
def far() -> Iterator[ReservedPort]:
    """The port of the provider `far`."""
    port = ReservedPort()
    yield port
    port.free()


@pytest.fixture
def start(
    make_server: Callable[..., Server], sqlite_url: str, upstream: Upstream, far: ReservedPort, tmp_path: Path
) -> Iterator[Callable[[str], Server]]:
    """Starts a server whose breaker opens after FAILURES failures, for the given seconds."""
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG.format(upstream=upstream.anthropic_url, port=far.number))
    server = make_server(
        sqlite_url,
        TOLLKEEPER_CATALOG=str(catalog),
        TOLLKEEPER_BREAKER_FAILURES=str(FAILURES),
        TOLLKEEPER_RATE_LIMIT_AI="off",
    )
    yield lambda seconds: server.start(TOLLKEEPER_BREAKER_SECONDS=seconds)
    server.stop()


async def test_a_model_whose_provider_drops_connections_is_blocked_and_others_are_not(
    start: Callable[[str], Server], upstream: Upstream
) -> None:
    async with new_user(start(FOR_EVER_S)) as caller:
        for _ in range(FAILURES):
            assert await _end(caller, "one", fault="close") == (502, "provider_error")
        assert len(upstream.requests(caller.marker)) == FAILURES
        await _assert_refused(await caller.query(caller.marker, model="one"), caller)
        assert len(upstream.requests(caller.marker)) == FAILURES
        assert (await caller.query(caller.marker, model="other")).status == 200


async def test_an_unreachable_provider_is_blocked_for_all_its_models_on_every_endpoint(
    start: Callable[[str], Server], upstream: Upstream, far: ReservedPort
) -> None:
    """Each call makes two attempts. When the provider is up again, the open breaker still blocks it."""

    async def call_far_three(endpoint: Endpoint) -> None:
        client_call: ClientCall = await call(caller, endpoint, caller.marker, "far-three")
        assert (client_call.status, client_call.code) == (502, "provider_unavailable"), endpoint
        if endpoint is not WEBSOCKET:
            assert 1 <= int(client_call.headers["Retry-After"]) <= 60, endpoint

    async with new_user(start(FOR_EVER_S)) as caller:
        for number, model in enumerate(("far-one", "far-two")):
            reply = await caller.query(caller.marker, model=model)
            assert (reply.status, reply.code) == (502, "provider_unavailable")
            assert "Retry-After" not in reply.headers, f"it was refused after {number} calls"
        async with tcp_proxy(far.number, upstream.connect):
            await asyncio.gather(*map(call_far_three, ALL_ENDPOINTS))
            assert upstream.requests(caller.marker) == []
            await _assert_refused(await caller.query(caller.marker, model="far-one"), caller)
            assert (await caller.query(caller.marker, model="one")).status == 200
            with_fallback = await caller.query(caller.marker, model="followed")
        assert (with_fallback.status, with_fallback.body["model"]) == (200, "other")
        assert [one["body"]["model"] for one in upstream.requests(caller.marker)] == ["one", "other"]
        charges = {one["model"]: one for one in await caller.charges()}
        then, first = charges["other"], charges["followed"]
        assert (then["state"], then["error"]) == ("settled", None)
        assert (first["state"], first["error"], first["cost"]) == ("released", "provider_unavailable", 0)


async def test_a_model_that_answers_again_is_unblocked(start: Callable[[str], Server], upstream: Upstream) -> None:
    async with new_user(start(A_MOMENT_S)) as caller:
        await _until(caller, "one", "provider_unavailable", fault="close")
        await _until(caller, "one", None)
        await _assert_all_succeed(caller, ["one"] * CALLERS, upstream)


async def test_a_provider_that_can_be_reached_again_is_unblocked_for_every_model(
    start: Callable[[str], Server], upstream: Upstream, far: ReservedPort
) -> None:
    """Through whichever of its models the first call succeeds."""
    async with new_user(start(A_MOMENT_S)) as caller:
        await _until(caller, "far-one", "provider_unavailable", refused=True)
        async with tcp_proxy(far.number, upstream.connect):
            await _until(caller, "far-two", None)
            await _assert_all_succeed(caller, ["far-one", "far-two", "far-three", "followed"] * 5, upstream)


async def test_errors_caused_by_one_users_requests_block_no_other_user(
    start: Callable[[str], Server], upstream: Upstream
) -> None:
    server = start(FOR_EVER_S)
    async with new_user(server) as faulty_user, new_user(server) as caller:
        ends = await asyncio.gather(*(_end(faulty_user, "one", status=500) for _ in range(2 * FAILURES)))
        assert set(ends) == {(502, "provider_error")}
        assert len(upstream.requests(faulty_user.marker)) == 2 * len(ends)
        await _assert_all_succeed(caller, ["one"] * CALLERS, upstream)


async def _end(caller: ApiUser, model: str, **script: object) -> tuple[int, str | None]:
    """Make a call. Returns its status and error code."""
    reply = await caller.query(scripted(caller.marker, **script), model=model)
    return reply.status, None if reply.status == 200 else reply.code


async def _until(caller: ApiUser, model: str, code: str | None, *, refused: bool = False, **script: object) -> None:
    """Repeat a call until it ends with `code`; with `refused`, until the breaker refuses it."""
    async with asyncio.timeout(TEST_DEADLINE_S):
        while True:
            reply = await caller.query(scripted(caller.marker, **script), model=model)
            found = None if reply.status == 200 else reply.code
            if found == code and (not refused or "Retry-After" in reply.headers):
                return
            await asyncio.sleep(0.02)


async def _assert_refused(reply: Reply, caller: ApiUser) -> None:
    """The breaker refused the call: no cost, and a Retry-After of up to a minute."""
    assert (reply.status, reply.code) == (502, "provider_unavailable")
    assert 1 <= int(reply.headers["Retry-After"]) <= 60
    (charge,) = [one for one in await caller.charges() if one["id"] == reply.headers["X-Charge-ID"]]
    assert (charge["state"], charge["basis"], charge["cost"]) == ("released", "none", 0)
    assert (await caller.quota())["reserved"] == 0


async def _assert_all_succeed(caller: ApiUser, models: list[str], upstream: Upstream) -> None:
    """Concurrent calls all reach the provider and are answered."""
    prompt = scripted(caller.marker, gate=caller.marker)
    calls = [asyncio.create_task(caller.query(prompt, model=model)) for model in models]
    with upstream.gate(caller.marker):
        async with asyncio.timeout(TEST_DEADLINE_S):
            while await asyncio.to_thread(upstream.waiting, caller.marker) < len(models):
                assert not any(one.done() for one in calls), [one.result() for one in calls if one.done()]
                await asyncio.sleep(0.02)
    assert {reply.status for reply in await asyncio.gather(*calls)} == {200}
