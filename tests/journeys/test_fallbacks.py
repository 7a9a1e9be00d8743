"""Fallbacks at every door: who answers when a provider fails, what each attempt costs, and when nobody else may."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from journeys.support.client_formats import SECRET
from journeys.support.endpoints import SOCKET, STREAMED, WHOLE, Call, Door, call
from journeys.support.ledger_checks import assert_books_are_right
from journeys.support.many_users import crowd
from journeys.support.processes import ReservedPort
from journeys.support.server import Server
from journeys.support.users import Person
from journeys.upstream.handle import Upstream, scripted
from patience import PATIENCE_S

pytestmark = pytest.mark.exhaustive_on_postgres

ANSWER = "one two three four five six seven"
HEARD = "one two three"
USAGE = {"input": 11, "output": 7}
WEIGHT = 3
LIMIT = 100
CATALOG = """
closed = true
default = "on-chat"

[providers.chatty]
kind = "openai"
base_url = "{upstream}/v1"
api_key_env = "OPENAI_API_KEY"
wires = ["chat/completions"]

[providers.messaging]
kind = "anthropic"
base_url = "{upstream}"
api_key_env = "OPENAI_API_KEY"

[providers.away]
kind = "openai"
base_url = "http://127.0.0.1:{nobody}/v1"
api_key_env = "OPENAI_API_KEY"

[models.on-chat]
provider = "chatty"
fallbacks = ["then-messages"]

[models.on-messages]
provider = "messaging"
fallbacks = ["then-chat"]

[models.away]
provider = "away"
fallbacks = ["then-chat"]

[models.then-chat]
provider = "chatty"
weight = 3

[models.then-messages]
provider = "messaging"
weight = 3
"""


Script = Mapping[str, Any]


class Chain(NamedTuple):
    """A model and its fallback, on another provider's wire."""

    first: str
    then: str


CHAINS = (Chain("on-chat", "then-messages"), Chain("on-messages", "then-chat"))
AWAY = (Chain("away", "then-chat"),)


class Cell(NamedTuple):
    """A call with a script for each of a chain's models."""

    door: Door
    chain: Chain
    first: Script
    then: Script

    def __str__(self) -> str:
        return f"{self.door.name} {self.chain.first} {self.first} {self.then}"

    def prompt(self, marker: str) -> str:
        models = {self.chain.first: self.first, self.chain.then: self.then}
        return scripted(marker, answer=ANSWER, usage=USAGE, by_model=models)


class Heard(NamedTuple):
    """What came of a call: as the caller heard it, as each model was charged, and which the upstream was asked for."""

    call: Call
    charges: dict[str, dict[str, Any]]
    used: int
    asked: list[str]


Check = Callable[[Cell, Heard], None]


class Failure(NamedTuple):
    """How the first provider fails without billing: the error of its charge, and how often it is asked."""

    script: Script
    code: str
    asked: int = 1
    chains: tuple[Chain, ...] = CHAINS


FAILURES = (
    Failure({"status": 500}, "provider_error", asked=2),
    Failure({"status": 409}, "provider_error", asked=2),
    Failure({"status": 404}, "provider_error"),
    Failure({"status": 401}, "provider_auth_failed"),
    Failure({"status": 402}, "provider_auth_failed"),
    Failure({"status": 429, "headers": {"Retry-After": "7"}}, "provider_rate_limited"),
    Failure({}, "provider_unavailable", asked=0, chains=AWAY),
)


@pytest.fixture
def chained(
    make_server: Callable[..., Server], database_url: str, upstream: Upstream, tmp_path: Path
) -> Iterator[Server]:
    """A running server whose models have fallbacks. In the end nothing is left open, and the books are right."""
    nobody = ReservedPort()
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG.format(upstream=upstream.anthropic_url, nobody=nobody.number))
    server = make_server(
        database_url, TOLLKEEPER_CATALOG=str(catalog), TOLLKEEPER_BREAKER_FAILURES="0", TOLLKEEPER_RATE_LIMIT_AI="off"
    )
    yield server.start()
    assert "open holds: 0\nClean:" in server.command("ledger", "verify")
    asyncio.run(assert_books_are_right(database_url))
    server.stop()
    nobody.free()


async def test_a_fallback_answers_for_whoever_failed_without_billing_and_each_attempt_is_a_charge(
    chained: Server, upstream: Upstream
) -> None:
    for failure in FAILURES:

        def check(cell: Cell, heard: Heard, failure: Failure = failure) -> None:
            assert (heard.call.status, heard.call.said.text) == (200, ANSWER), heard.call.raw
            assert heard.call.said.error is None
            first, then = (heard.charges[model] for model in cell.chain)
            _assert_released(first, failure.code)
            assert (then["state"], then["basis"]) == ("settled", "provider")
            assert then["cost"] == heard.used == WEIGHT * sum(USAGE.values())
            assert then["held"] > WEIGHT * LIMIT, "the hold of the fallback is by its own weight"
            assert heard.asked == [cell.chain.first] * failure.asked + [cell.chain.then]
            if cell.door is not SOCKET:
                assert heard.call.headers["X-Charge-ID"] == then["id"]

        cells = [Cell(door, chain, failure.script, {}) for door in (*WHOLE, *STREAMED) for chain in failure.chains]
        await _walk(chained, upstream, cells, check)


async def test_when_all_are_down_the_last_failure_is_told_and_nothing_is_paid(
    chained: Server, upstream: Upstream
) -> None:
    limited: Script = {"status": 429, "headers": {"Retry-After": "7"}}

    def check(cell: Cell, heard: Heard) -> None:
        first, then = (heard.charges[model] for model in cell.chain)
        told = {429: (503, "provider_rate_limited"), 404: (502, "provider_error")}[cell.then["status"]]
        assert (heard.call.status, heard.call.code) == told, heard.call.raw
        if cell.door is not SOCKET:
            assert heard.call.headers.get("Retry-After") == ("7" if told[0] == 503 else None)
            assert heard.call.headers["X-Charge-ID"] == then["id"]
        _assert_released(first, "provider_error" if cell.then is limited else "provider_rate_limited")
        _assert_released(then, told[1])
        assert heard.asked == [cell.chain.first] * (2 if cell.then is limited else 1) + [cell.chain.then]
        assert heard.used == 0

    ends: list[tuple[Script, Script]] = [({"status": 500}, limited), (limited, {"status": 404})]
    cells = [Cell(door, chain, *end) for door in (*WHOLE, *STREAMED) for chain in CHAINS for end in ends]
    await _walk(chained, upstream, cells, check)


async def test_after_the_first_word_nobody_else_is_asked(chained: Server, upstream: Upstream) -> None:
    def check(cell: Cell, heard: Heard) -> None:
        said = heard.call.said
        assert (heard.call.status, said.text, said.ends) == (200, HEARD, 0), heard.call.raw
        assert said.error is not None
        assert heard.charges.keys() == {cell.chain.first}
        charge = heard.charges[cell.chain.first]
        assert (charge["state"], charge["basis"]) == ("settled", "counted")
        assert charge["output_tokens"] == 3
        assert heard.used == charge["cost"] == charge["input_tokens"] + 3
        assert heard.asked == [cell.chain.first]

    breaks: list[Script] = [{"error_after": 3}, {"close_after": 3}]
    cells = [Cell(door, chain, script, {}) for door in STREAMED for chain in CHAINS for script in breaks]
    await _walk(chained, upstream, cells, check)


async def test_what_may_have_been_billed_or_is_the_callers_mistake_is_asked_of_nobody_else(
    chained: Server, upstream: Upstream
) -> None:
    ends = {
        400: (400, "provider_rejected", "none"),
        408: (504, "provider_timeout", "unknown"),
        None: (502, "provider_error", "unknown"),
    }

    def check(cell: Cell, heard: Heard) -> None:
        *told, basis = ends[cell.first.get("status")]
        assert [heard.call.status, heard.call.code] == told, heard.call.raw
        assert heard.charges.keys() == {cell.chain.first}
        charge = heard.charges[cell.chain.first]
        assert (charge["basis"], charge["error"]) == (basis, told[1])
        assert (charge["cost"] > 0) == (basis == "unknown")
        assert heard.used == charge["cost"]
        assert heard.asked == [cell.chain.first]

    scripts: list[Script] = [{"status": 400}, {"status": 408}, {"fault": "close"}]
    cells = [Cell(door, chain, script, {}) for door in (*WHOLE, *STREAMED) for chain in CHAINS for script in scripts]
    await _walk(chained, upstream, cells, check)


def _assert_released(charge: dict[str, Any], code: str) -> None:
    assert (charge["state"], charge["basis"]) == ("released", "none"), charge
    assert (charge["error"], charge["cost"], charge["forgiven"]) == (code, 0, 0), charge


async def _walk(server: Server, upstream: Upstream, cells: list[Cell], check: Check) -> None:
    """Every cell at once, each by a person of their own. Whatever is not as it has to be is told."""
    async with crowd(server, len(cells)) as people:
        visits = (_visit(upstream, cell, caller, check) for cell, caller in zip(cells, people, strict=True))
        ends = await asyncio.gather(*visits, return_exceptions=True)
    if wrong := [end for end in ends if isinstance(end, Exception)]:
        raise ExceptionGroup(f"{len(wrong)} of {len(cells)} cells", wrong)


async def _visit(upstream: Upstream, cell: Cell, caller: Person, check: Check) -> None:
    try:
        made = await call(caller, cell.door, cell.prompt(caller.marker), cell.chain.first, LIMIT)
        assert SECRET.encode() not in made.raw
        async with asyncio.timeout(PATIENCE_S):
            while (quota := await caller.quota())["reserved"]:
                await asyncio.sleep(0.05)
        seen = await asyncio.to_thread(upstream.seen, caller.marker)
        charges = await caller.charges()
        by_model = {one["model"]: one for one in charges}
        assert len(charges) == len(by_model), charges
        check(cell, Heard(made, by_model, quota["used"], [one["body"]["model"] for one in seen]))
    except Exception as error:
        error.add_note(f"at {cell}")
        raise
