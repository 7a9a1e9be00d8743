"""Refresh tokens: a genuine one is told from a forgery, and has one successor, without a query."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.identity import make_identity_world
from tollkeeper.database.engine import Database
from tollkeeper.database.migrations import migrate
from tollkeeper.identity.refresh_tokens import MAX_LENGTH, RefreshTokens


@pytest.fixture
async def tokens(sqlite_url: str) -> AsyncIterator[RefreshTokens]:
    database = Database(sqlite_url)
    yield RefreshTokens((await make_identity_world(database)).keys)
    await database.close()


async def test_a_token_made_here_is_recognised_with_its_session_and_generation(tokens: RefreshTokens) -> None:
    token = tokens.first()
    for generation in range(12):
        assert tokens.recognise(token.text) == token
        assert (token.generation, len(token.text) <= MAX_LENGTH) == (generation, True)
        assert token.text not in repr(token)
        successor = tokens.successor(token)
        assert successor == tokens.successor(token) != token
        assert successor.session_id == token.session_id
        token = successor
    assert tokens.first().session_id != token.session_id


async def test_no_change_of_a_token_is_recognised(tokens: RefreshTokens) -> None:
    text = tokens.first().text
    other = tokens.first().text
    for place in range(len(text)):
        changed = "A" if text[place] != "A" else "B"
        assert tokens.recognise(text[:place] + changed + text[place + 1 :]) is None, place
    spliced = text.rpartition("-")[0] + other[-23:]
    wrong = [
        "",
        text[:-1],
        text + "A",
        f" {text}",
        text.replace("-0-", "-1-", 1),
        text.replace("-0-", "-00-", 1),
        spliced,
    ]
    for one in [*wrong, text + "\n", "ä" * 80, "x" * 100_000]:
        assert tokens.recognise(one) is None, one[:200]


async def test_the_tokens_of_another_installation_are_not_recognised(tokens: RefreshTokens, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/other.db"
    await asyncio.to_thread(migrate, url)
    other = Database(url)
    try:
        foreign = RefreshTokens((await make_identity_world(other)).keys)
        assert tokens.recognise(foreign.first().text) is None
    finally:
        await other.close()
