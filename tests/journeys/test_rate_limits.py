"""Too fast: 429 with the time to wait, for a while only, and nobody else suffers."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from databases import new_sqlite
from journeys.support.server import Server
from journeys.support.users import PASSWORD, Reply, add_user, login, person, visitor
from journeys.upstream.handle import Upstream
from tollkeeper.db import Database

LOGINS, CALLS = 4, 3
SECONDS = 5


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, migrated_file: Path, upstream: Upstream) -> Iterator[Server]:
    """A server with small limits."""
    folder: Path = tmp_path_factory.mktemp("strict")
    url = new_sqlite(folder, migrated_file)
    limits = {
        "TOLLKEEPER_RATE_LIMIT_LOGIN": f"{LOGINS}/{SECONDS} seconds",
        "TOLLKEEPER_RATE_LIMIT_AI": f"{CALLS}/{SECONDS} seconds",
    }
    server = Server(url, folder, {"OPENAI_BASE_URL": upstream.base_url} | limits)
    try:
        yield server.start()
        server.stop()
    finally:
        server.free()


async def test_who_asks_too_fast_waits_and_the_others_do_not(strict: Server, upstream: Upstream) -> None:
    async with person(strict) as caller, person(strict) as other:
        replies = [await caller.ask(caller.marker) for _ in range(CALLS + 2)]
        assert [reply.status for reply in replies] == [200] * CALLS + [429] * 2
        wait_s = _wait_of(replies[-1])
        assert len(await caller.charges()) == len(upstream.seen(caller.marker)) == CALLS
        assert (await other.ask(other.marker)).status == 200
        await asyncio.sleep(wait_s)
        assert (await caller.ask(caller.marker)).status == 200


async def test_an_account_is_shut_for_a_while_and_never_for_good(strict: Server) -> None:
    """Whoever guesses from wherever; and whether or not there is such an account."""
    email = await _new_account(strict)
    for number, account in enumerate((email, "nobody@example.com")):
        async with (
            visitor(strict, f"127.0.1.{number * 2 + 1}") as here,
            visitor(strict, f"127.0.1.{number * 2 + 2}") as there,
        ):
            guesses = [await login(here, account, f"guess {n}") for n in range(LOGINS)]
            assert [reply.code for reply in guesses] == ["invalid_credentials"] * LOGINS
            shut = await login(there, account, PASSWORD)
            wait_s = _wait_of(shut)
            assert (await login(there, "somebody.else@example.com", "guess")).status == 401
            await asyncio.sleep(wait_s)
            assert (await login(there, account, PASSWORD)).status == (200 if account == email else 401)


async def test_an_address_that_guesses_is_shut_for_a_while_for_every_account(strict: Server) -> None:
    email = await _new_account(strict)
    async with visitor(strict, "127.0.2.1") as guesser, visitor(strict, "127.0.2.2") as other:
        for number in range(LOGINS):
            assert (await login(guesser, f"{number}@example.com", "guess")).status == 401
        wait_s = _wait_of(await login(guesser, email, PASSWORD))
        assert (await login(other, email, PASSWORD)).status == 200
        await asyncio.sleep(wait_s)
        assert (await login(guesser, email, PASSWORD)).status == 200


def _wait_of(reply: Reply) -> int:
    """The seconds that a refusal for haste asks to wait."""
    assert (reply.status, reply.code) == (429, "rate_limited")
    seconds = int(reply.headers["Retry-After"])
    assert 1 <= seconds <= SECONDS
    return seconds


async def _new_account(server: Server) -> str:
    database = Database(server.database_url)
    try:
        return (await add_user(database))[1]
    finally:
        await database.close()
