"""The circuit breaker: who is down is asked no more, so that nobody waits for them, until they answer again."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from journeys.support.endpoints import DOORS, SOCKET, Call, Door, call
from journeys.support.processes import ReservedPort
from journeys.support.server import Server
from journeys.support.tcp_proxy import line
from journeys.support.users import Person, Reply, person
from journeys.upstream.handle import Upstream, scripted
from patience import PATIENCE_S

FAILURES = 4
FOR_EVER_S, A_MOMENT_S = "600", "1"
"""How long it stays open: a tenth of that passes before someone is let through."""
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
    """Where the provider `far` should be."""
    port = ReservedPort()
    yield port
    port.free()


@pytest.fixture
def start(
    make_server: Callable[..., Server], sqlite_url: str, upstream: Upstream, far: ReservedPort, tmp_path: Path
) -> Iterator[Callable[[str], Server]]:
    """Starts a server whose breaker opens after FAILURES, for so many seconds."""
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


async def test_a_model_that_breaks_off_is_asked_no_more_and_others_are(
    start: Callable[[str], Server], upstream: Upstream
) -> None:
    async with person(start(FOR_EVER_S)) as caller:
        for _ in range(FAILURES):
            assert await _end(caller, "one", fault="close") == (502, "provider_error")
        assert len(upstream.seen(caller.marker)) == FAILURES
        await _assert_refused(await caller.ask(caller.marker, model="one"), caller)
        assert len(upstream.seen(caller.marker)) == FAILURES
        assert (await caller.ask(caller.marker, model="other")).status == 200


async def test_a_provider_that_cannot_be_reached_for_some_models_is_asked_for_none_at_any_door(
    start: Callable[[str], Server], upstream: Upstream, far: ReservedPort
) -> None:
    """Each call tries twice. In the end the provider is there, and nobody notices."""

    async def knock(door: Door) -> None:
        made: Call = await call(caller, door, caller.marker, "far-three")
        assert (made.status, made.code) == (502, "provider_unavailable"), door
        if door is not SOCKET:
            assert 1 <= int(made.headers["Retry-After"]) <= 60, door

    async with person(start(FOR_EVER_S)) as caller:
        for number, model in enumerate(("far-one", "far-two")):
            reply = await caller.ask(caller.marker, model=model)
            assert (reply.status, reply.code) == (502, "provider_unavailable")
            assert "Retry-After" not in reply.headers, f"it was refused after {number} calls"
        async with line(far.number, upstream.connect):
            await asyncio.gather(*map(knock, DOORS))
            assert upstream.seen(caller.marker) == []
            await _assert_refused(await caller.ask(caller.marker, model="far-one"), caller)
            assert (await caller.ask(caller.marker, model="one")).status == 200
            followed = await caller.ask(caller.marker, model="followed")
        assert (followed.status, followed.body["model"]) == (200, "other")
        assert [one["body"]["model"] for one in upstream.seen(caller.marker)] == ["one", "other"]
        charges = {one["model"]: one for one in await caller.charges()}
        then, first = charges["other"], charges["followed"]
        assert (then["state"], then["error"]) == ("settled", None)
        assert (first["state"], first["error"], first["cost"]) == ("released", "provider_unavailable", 0)


async def test_a_model_that_answers_again_is_let_in_again(start: Callable[[str], Server], upstream: Upstream) -> None:
    async with person(start(A_MOMENT_S)) as caller:
        await _until(caller, "one", "provider_unavailable", fault="close")
        await _until(caller, "one", None)
        await _assert_all_come_through(caller, ["one"] * CALLERS, upstream)


async def test_a_provider_that_can_be_reached_again_is_let_in_again_for_every_model(
    start: Callable[[str], Server], upstream: Upstream, far: ReservedPort
) -> None:
    """Whichever of its models is the first to come through."""
    async with person(start(A_MOMENT_S)) as caller:
        await _until(caller, "far-one", "provider_unavailable", refused=True)
        async with line(far.number, upstream.connect):
            await _until(caller, "far-two", None)
            await _assert_all_come_through(caller, ["far-one", "far-two", "far-three", "followed"] * 5, upstream)


async def test_nobody_is_kept_out_by_errors_that_are_provoked_by_the_requests_of_another(
    start: Callable[[str], Server], upstream: Upstream
) -> None:
    server = start(FOR_EVER_S)
    async with person(server) as nuisance, person(server) as caller:
        ends = await asyncio.gather(*(_end(nuisance, "one", status=500) for _ in range(2 * FAILURES)))
        assert set(ends) == {(502, "provider_error")}
        assert len(upstream.seen(nuisance.marker)) == 2 * len(ends)
        await _assert_all_come_through(caller, ["one"] * CALLERS, upstream)


async def _end(caller: Person, model: str, **script: object) -> tuple[int, str | None]:
    """Status and code of a call."""
    reply = await caller.ask(scripted(caller.marker, **script), model=model)
    return reply.status, None if reply.status == 200 else reply.code


async def _until(caller: Person, model: str, code: str | None, *, refused: bool = False, **script: object) -> None:
    """Ask again and again until a call ends so; with `refused`, without that the provider is asked."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            reply = await caller.ask(scripted(caller.marker, **script), model=model)
            found = None if reply.status == 200 else reply.code
            if found == code and (not refused or "Retry-After" in reply.headers):
                return
            await asyncio.sleep(0.02)


async def _assert_refused(reply: Reply, caller: Person) -> None:
    """At once, with the time at which it may be tried again, and for nothing."""
    assert (reply.status, reply.code) == (502, "provider_unavailable")
    assert 1 <= int(reply.headers["Retry-After"]) <= 60
    (charge,) = [one for one in await caller.charges() if one["id"] == reply.headers["X-Charge-ID"]]
    assert (charge["state"], charge["basis"], charge["cost"]) == ("released", "none", 0)
    assert (await caller.quota())["reserved"] == 0


async def _assert_all_come_through(caller: Person, models: list[str], upstream: Upstream) -> None:
    """Calls at once, all of which are with the provider at the same time."""
    prompt = scripted(caller.marker, gate=caller.marker)
    calls = [asyncio.create_task(caller.ask(prompt, model=model)) for model in models]
    with upstream.gate(caller.marker):
        async with asyncio.timeout(PATIENCE_S):
            while await asyncio.to_thread(upstream.waiting, caller.marker) < len(models):
                assert not any(one.done() for one in calls), [one.result() for one in calls if one.done()]
                await asyncio.sleep(0.02)
    assert {reply.status for reply in await asyncio.gather(*calls)} == {200}
